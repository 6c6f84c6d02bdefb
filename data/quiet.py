"""TensorFlow without its start-up noise, and imported sooner. For entry scripts."""

import importlib
import logging
import os
import sys
import tempfile


def import_tensorflow():
    """Imports TensorFlow silently and without Keras; afterwards `import tensorflow` costs nothing.

    Entry scripts call it once the flags have been found sound, before they import what needs TensorFlow.
    An environment with TF_CPP_MIN_LOG_LEVEL=0 (or 1, 2) hears all that TensorFlow has to say.
    Raises ImportError, after showing what the libraries wrote, if TensorFlow cannot be imported.
    """
    if 'tensorflow' in sys.modules:
        return
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
