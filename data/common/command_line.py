"""Command lines: flag types with limits, the parser, warnings and exit status. Standard library only."""
import argparse
import contextlib
import functools
import os
import signal
import sys

MAX_INT, MAX_FLOAT = 2 ** 31 - 1, 1e18    # of flags: the largest int32, and a float whose square fits in float32
MAX_WORKERS = 4 * (os.cpu_count() or 1)   # threads


class InputError(Exception):
    """Unusable user input: a file, folder, flag or value. str(error) is the one line that the user sees."""


def _number(text, kind, least, most):
    with contextlib.suppress(ValueError):
        if least <= kind(text) <= most:   # false for NaN
            return kind(text)
    name = 'a whole number' if kind is int else 'a number'
    raise argparse.ArgumentTypeError(f'{text!r} is not {name} from {least:.10g} to {most:.10g}')


positive_int = functools.partial(_number, kind=int, least=1, most=MAX_INT)
non_negative_int = functools.partial(_number, kind=int, least=0, most=MAX_INT)
number_of_pictures = functools.partial(_number, kind=int, least=1, most=10 ** 6)
positive_float = functools.partial(_number, kind=float, least=1 / MAX_FLOAT, most=MAX_FLOAT)
non_negative_float = functools.partial(_number, kind=float, least=0, most=MAX_FLOAT)
share = functools.partial(_number, kind=float, least=0, most=1)
bandwidth = functools.partial(_number, kind=float, least=1e-6, most=1e6)   # in units of the embedding
image_side = functools.partial(_number, kind=int, least=8, most=2 ** 15)   # of a model; bounds memory
feature_dim = functools.partial(_number, kind=int, least=1, most=2 ** 10)


def workers(text, least=1):
    """Parses a number of threads, at least `least`. -> int, at most MAX_WORKERS"""
    return min(_number(text, int, least, MAX_INT), MAX_WORKERS)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of the description and appends each default that is not None or False."""

    def _get_help_string(self, action):
        has_default = action.default is not None and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports an error in one line, with exit status 2, and rejects empty file names."""

    def __init__(self, **kwargs):
        super().__init__(**{'formatter_class': _HelpFormatter, **kwargs})

    def parse_known_args(self, *args, **kwargs):
        flags, rest = super().parse_known_args(*args, **kwargs)
        for action in self._actions:
            if getattr(flags, action.dest, None) == '':
                self.error(f'argument {"/".join(action.option_strings) or action.dest}: is empty; give a name')
        return flags, rest

    def error(self, message):
        self.exit(2, f'{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n')


def run(main):
    """Calls main() and exits with the status that it returns; every script ends with this call.

    InputError, OSError and MemoryError are reported in one line on stderr, with status 1; Ctrl-C likewise (with the
    text of the KeyboardInterrupt, if any), with status 130. SIGTERM raises SystemExit(143), so `finally` blocks run.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.stdout.reconfigure(errors='backslashreplace')   # for file names that the terminal cannot show
    try:
        sys.exit(main())
    except OSError as error:
        path = '' if error.filename is None else f'{error.filename}: '
        status, message = 1, f'error: {path}{error.strerror or error}'
    except (InputError, MemoryError) as error:
        status, message = 1, f'error: {str(error) or "out of memory"}'
    except KeyboardInterrupt as error:
        status, message = 130, str(error) or 'interrupted'
    warn(message, '')
    sys.exit(status)


def warn(message, kind='warning: '):
    """Prints the line `script.py: warning: ...` on stderr."""
    print(f'{os.path.basename(sys.argv[0])}: {kind}{one_line(message)}', file=sys.stderr, flush=True)


def one_line(message):
    """Joins the lines of a message and escapes control characters. -> str"""
    return printable(' '.join(str(message).split()))


def printable(text):
    """Escapes control and other unprintable characters, which file names may contain. -> str"""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
