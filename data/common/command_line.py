"""What all command lines share: types of flags and their limits, the parser, warnings, how a script ends.

Imports only the standard library, so that a script can check its flags before anything heavy is loaded.
"""

import argparse
import contextlib
import io
import os
import select
import signal
import sys

MAX_INT, MAX_FLOAT = 2 ** 31 - 1, 1e18     # of flags: what int32 holds, and float32 after it is squared
MIN_BANDWIDTH, MAX_BANDWIDTH = 1e-6, 1e6   # in units of the embedding
# Of a model's photos and embedding. More, by a slip or in a damaged file, would take all memory.
MAX_SIDE, MAX_MODEL_PIXELS, MAX_FEATURE_DIM = 2 ** 15, 2 ** 24, 2 ** 10
MAX_NUM = 10 ** 6   # of pictures that a script makes; the names of 2 ** 31 would take all memory
MAX_WORKERS = 4 * (os.cpu_count() or 1)   # threads; more only take memory
MAX_MESSAGE = 500   # characters; the middle of a longer one is left out


class InputError(Exception):
    """A file, folder, flag or value of the user's cannot be used. str(error) is the one line that the user sees."""


def positive_int(text):
    """argparse type: a whole number from 1 to 2 ** 31 - 1."""
    return _number(text, int, 1, MAX_INT)


def number_of_pictures(text):
    """argparse type: a whole number from 1 to MAX_NUM."""
    return _number(text, int, 1, MAX_NUM)


def non_negative_int(text):
    """argparse type: a whole number from 0 to 2 ** 31 - 1."""
    return _number(text, int, 0, MAX_INT)


def workers(text, least=1):
    """argparse type: a whole number of threads from `least` on; of a larger one, MAX_WORKERS."""
    return min(_number(text, int, least, MAX_INT), MAX_WORKERS)


def positive_float(text):
    """argparse type: a number above 0 whose square and reciprocal float32 can hold."""
    return _number(text, float, 1 / MAX_FLOAT, MAX_FLOAT)


def non_negative_float(text):
    """argparse type: a number of 0 or more whose square float32 can hold."""
    return _number(text, float, 0, MAX_FLOAT)


def share(text):
    """argparse type: a number from 0 to 1."""
    return _number(text, float, 0, 1)


def bandwidth(text):
    """argparse type: a bandwidth of mean shift."""
    return _number(text, float, MIN_BANDWIDTH, MAX_BANDWIDTH)


def _number(text, kind, least, most):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not least <= value <= most:   # NaN fails every comparison
        name = 'a whole number' if kind is int else 'a number'
        raise argparse.ArgumentTypeError(f'{text!r} is not {name} from {least:.10g} to {most:.10g}')
    return value


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of the description (a script's docstring) and shows the defaults of flags that have one."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose error is one line on stderr, without the usage block, and exit status 2.

    An empty name of a file or folder is such an error.
    """

    def __init__(self, **kwargs):
        kwargs.setdefault('formatter_class', _HelpFormatter)
        super().__init__(**kwargs)

    def parse_known_args(self, *args, **kwargs):
        flags, rest = super().parse_known_args(*args, **kwargs)
        for action in self._actions:
            if getattr(flags, action.dest, None) == '':
                self.error(f'argument {"/".join(action.option_strings) or action.dest}: is empty; give a name')
        return flags, rest

    def error(self, message):
        self.exit(2, f'{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n')


def warn(message):
    """Prints the line `script.py: warning: ...` on stderr."""
    print(f'{_script()}: warning: {one_line(message)}', file=sys.stderr, flush=True)


def warn_of_others(folder, names):
    """Warns of pictures from an earlier run in a folder of results. They stay, as someone may need them."""
    if names:
        warn(f'{folder}: also holds pictures that are not of this run ({min(names)}, {len(names)} in all)')


def exit_on_interrupt():
    """Until `run`, Ctrl-C is one line and status 130. Scripts call it before imports that take a moment.

    From then on, a library for which there is not enough memory is one line too, with status 1.
    """
    sys.excepthook = _explain_failed_import
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_at_once)


def _exit_at_once(number, frame):
    with contextlib.suppress(OSError):
        os.write(2, f'{_script()}: interrupted\n'.encode(errors='replace'))
    os._exit(128 + number)


def _explain_failed_import(kind, error, trace):
    cause = error
    while cause.__cause__ or cause.__context__:   # NumPy's own message has a page
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, MemoryError) or isinstance(error, ImportError) and 'failed to map segment' in str(cause):
        library = getattr(error, 'name', None) or str(cause).split(':')[0] or 'the libraries'
        print(f'{_script()}: error: there is not enough memory to load {one_line(library)}', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def run(main):
    """Calls main() and ends the process: the whole of a script's `if __name__ == '__main__'`.

    The exit status is what main returns (None: 0). An InputError, OSError or MemoryError becomes one line on stderr
    and status 1; Ctrl-C one line (the KeyboardInterrupt's own text, if main gave it one) and status 130; SIGTERM
    status 143.

    Printing never fails and never stops the work. What is printed to a stream that was closed, or whose reader has gone
    (`| head`), is dropped, and the status is that of the work. Where stdout is a file that cannot be written (a full
    disk), the work goes on, and a status of 0 becomes one line on stderr and status 1. stderr that cannot be written
    changes nothing.
    """
    if signal.getsignal(signal.SIGINT) is _exit_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # As an exception, SIGTERM lets `finally` take away what is half-written.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    stdout = _replace_streams()
    try:
        status = main()
    except SystemExit as end:
        status = end.code
    except (InputError, OSError, MemoryError) as error:
        status = 1
        print(f'{_script()}: error: {one_line(describe(error))}', file=sys.stderr)
    except KeyboardInterrupt as error:
        status = 130
        print(f'{_script()}: {one_line(str(error) or "interrupted")}', file=sys.stderr)
    sys.stdout.flush()
    if stdout and stdout.lost and status in (None, 0):
        status = 1
        print(f'{_script()}: error: stdout: {describe(stdout.lost)}', file=sys.stderr)
    sys.exit(status)


class _Output(io.FileIO):
    """stdout or stderr. What cannot be written is dropped; `lost` is then the OSError, unless its reader has gone."""
    lost = None

    def write(self, data):
        rest = memoryview(data)
        try:
            while rest:
                written = super().write(rest)
                if written is None:   # a pipe that another program has made non-blocking is full
                    select.select([], [self], [])
                rest = rest[written or 0:]
        except OSError as error:
            if not isinstance(error, ConnectionError) and not self.isatty():
                self.lost = error
        return len(data)


def _replace_streams():
    """Makes stdout and stderr what `run` promises. -> the _Output of stdout, None if it is not the process's own."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:   # closed: the next file to be opened would receive what libraries print
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
    outputs = {}
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        stream = getattr(sys, name)
        if stream is getattr(sys, f'__{name}__'):
            stream = stream or open(os.devnull, 'w')
            outputs[name] = output = _Output(number, 'w', closefd=False)
            setattr(sys, name, io.TextIOWrapper(
                output if stream.write_through else io.BufferedWriter(output), stream.encoding,
                line_buffering=stream.line_buffering, write_through=stream.write_through))
        # What a terminal cannot show is escaped, rather than the end of a run.
        getattr(sys, name).reconfigure(errors='backslashreplace')
    return outputs.get('stdout')


def describe(error):
    """An exception in words: `path: No space left on device` rather than `[Errno 28] ...`. -> str"""
    if isinstance(error, OSError) and error.strerror:
        return f'{error.filename}: {error.strerror}' if error.filename is not None else error.strerror
    if isinstance(error, MemoryError):
        return 'there is not enough memory'
    return str(error) or type(error).__name__


def _script():
    return os.path.basename(sys.argv[0])


def one_line(message):
    """-> the words of a message without line breaks and control characters, at most MAX_MESSAGE characters"""
    line = printable(' '.join(str(message).split()))
    half = (MAX_MESSAGE - 3) // 2
    return line if len(line) <= MAX_MESSAGE else f'{line[:half]}...{line[-half:]}'


def printable(text):
    """Escapes the control and other unprintable characters that file names may hold. -> str"""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
