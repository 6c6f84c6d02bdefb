"""TensorFlow without its start-up noise, and imported sooner. For entry scripts."""

import ctypes
import importlib
import logging
import os
import sys
import tempfile

from data.command_line import InputError


def import_tensorflow():
    """Imports TensorFlow silently and without Keras; afterwards `import tensorflow` costs nothing.

    Entry scripts call it once the flags have been found sound, before they import what needs TensorFlow.
    An environment with TF_CPP_MIN_LOG_LEVEL=0 (or 1, 2) hears all that TensorFlow has to say.
    Raises ImportError, after showing what the libraries wrote, if TensorFlow cannot be imported.
    """
    if 'tensorflow' in sys.modules:
        return
    keep_freed_memory()
    logging.getLogger('tensorflow').setLevel(logging.ERROR)  # deprecations, for one
    # TensorFlow imports Keras, and Keras scikit-learn and matplotlib: 2.5 s and 120 MB for nothing here.
    # Where Keras cannot be found, TensorFlow does without. Unhidden below, it loads when it is asked for
    # (tf.keras).
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


def keep_freed_memory():
    """Has the C library keep the memory that is freed, for the next allocation.

    A graph frees and takes the same large blocks in each run. By default glibc hands them back to the kernel, which
    clears every page anew: up to half of a training step went into that. Elsewhere than on glibc it does nothing.
    """
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8   # glibc's malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for option, value in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 2 ** 26), (arena_max, 1)):
        mallopt(option, value)


def _import_silently(module):
    """Imports a module while file descriptor 2 leads to a file, which is shown only if the import fails.

    While it is loaded, TensorFlow writes to stderr whatever the environment says: its log is not ready yet.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            importlib.import_module(module)
        except BaseException:
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
