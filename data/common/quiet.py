"""For scripts: imports TensorFlow fast and without its start-up messages, and checks the folders that it reads."""

import ctypes
import importlib
import logging
import os
import sys
import tempfile

from data.common.command_line import InputError


def import_tensorflow():
    """Imports TensorFlow silently and without Keras; afterwards `import tensorflow` costs nothing.

    Scripts call it after they have checked their flags, before they import what needs TensorFlow. With
    TF_CPP_MIN_LOG_LEVEL=0 (or 1, 2) in the environment, TensorFlow prints its messages.
    Raises ImportError, after showing what the libraries wrote, if TensorFlow cannot be imported.
    """
    if 'tensorflow' in sys.modules:
        return
    _keep_freed_memory()
    # By default TensorFlow leaves it off on processors without AVX-512, where its own convolutions are slower and have
    # no gradient when dilated.
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
    logging.getLogger('tensorflow').setLevel(logging.ERROR)  # deprecations, for one
    # TensorFlow imports Keras, which imports scikit-learn and matplotlib: 2.5 s and 120 MB that nothing here needs.
    # TensorFlow does without a Keras that cannot be found; once unhidden, tf.keras loads it on first use.
    hide_keras = 'keras' not in sys.modules
    if hide_keras:
        sys.modules['keras'] = None
    try:
        if os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3') < '3':
            importlib.import_module('tensorflow')
        else:
            _import_silently('tensorflow')
    finally:
        if hide_keras:
            del sys.modules['keras']


def _keep_freed_memory():
    """Makes the C library keep freed memory for the next allocation. Without glibc it does nothing.

    A graph frees and allocates the same large blocks in each run. By default glibc returns them to the kernel, which
    clears every page again: that took up to half of a training step.
    """
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8   # glibc's malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for option, value in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 2 ** 26), (arena_max, 1)):
        mallopt(option, value)


def _import_silently(module):
    """Imports a module with file descriptor 2 redirected to a file, which is shown only if the import fails.

    While it is loaded, TensorFlow writes to stderr whatever the environment says: its log is not ready yet.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            importlib.import_module(module)
        except Exception:   # not for Ctrl-C
            noise.seek(0)
            os.write(stderr, noise.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def check_checkpoint_folder(path):
    """Raises InputError for a folder from which TensorFlow could not read a checkpoint that it had written there."""
    path = os.fspath(path)
    if '[' in path or '\\' in path and os.sep == '/':
        raise InputError(f'{path}: TensorFlow reads no checkpoint from a path with [ or \\ in it; rename the folder')
