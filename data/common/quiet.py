"""Imports TensorFlow quickly and without start-up messages."""
import contextlib
import ctypes
import importlib
import logging
import os
import sys
import tempfile


def import_tensorflow():
    """Imports TensorFlow silently, without Keras and with a malloc that keeps its memory.

    Scripts call it once their flags and inputs are checked. TF_CPP_MIN_LOG_LEVEL=0, 1 or 2 brings the messages back.
    """
    if 'tensorflow' in sys.modules:
        return
    _keep_freed_memory()
    # Off by default without AVX-512: convolutions are slower, and dilated ones have no gradient.
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
    logging.getLogger('tensorflow').setLevel(logging.ERROR)
    silent = os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3') == '3'
    # Keras takes a third of the import (27 s against 17 on a busy machine) and 120 MB; tf.keras loads it on demand.
    sys.modules.setdefault('keras', None)
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as messages:   # some are written before the level is read
        try:
            if silent:
                os.dup2(messages.fileno(), 2)
            importlib.import_module('tensorflow')
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if sys.modules['keras'] is None:
                del sys.modules['keras']


def _keep_freed_memory():
    """Stops glibc from returning freed memory to the kernel, which would clear every page again at the next step."""
    with contextlib.suppress(OSError, AttributeError, TypeError):   # no glibc
        for option, value in ((-4, 0), (-1, -1), (-2, 2 ** 26), (-8, 1)):   # of malloc.h: mmap_max, trim_threshold, ...
            ctypes.CDLL(None).mallopt(option, value)
