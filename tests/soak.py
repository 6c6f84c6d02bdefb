"""Kills trainings at random instants and compares what comes out with a training that was never killed.

    python tests/soak.py --kills 50

Real processes of training.py, which save after every step, are stopped with SIGKILL and started again until they are
done, over and over until there were so many kills. The weights, the optimizer's state and the TensorBoard curves of
each finished training have to be those of the undisturbed one, bit for bit; the exit status is 1 if any is not. The
data is drawn. The network is the small one of the tests; with --full it is all of ENet.
"""
import argparse
import collections
import functools
import mmap
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

sys.path[:0] = [os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.dirname(os.path.abspath(__file__))]

FLAGS = ['--epochs', '10', '--image-size', '64', '32', '--batch-size', '4', '--summary-steps', '1', '--pictures', '4',
         '--save-minutes', '1e-9', '--learning-rate', '0.003']
# What a process is doing, as one byte of a file that it maps.
PHASES = ['start', 'step', 'validation', 'save', 'between them']
EXPECTED = 10 * 4                                  # steps: of 20 photos 18 are trained on


def child(phase_path, full, argv):
    """training.py in this process, which notes its phase."""
    import pytest
    import test_training
    from data.common import command_line
    training, utils = test_training.training, test_training.utils
    with open(phase_path, 'r+b') as file:
        phase = mmap.mmap(file.fileno(), 1)

    def noted(act, number):
        def run(*args, **kwargs):
            before, phase[0] = phase[0], number
            try:
                return act(*args, **kwargs)
            finally:
                phase[0] = before or PHASES.index('between them')
        return run
    utils.SingleProcess.run_step = noted(utils.SingleProcess.run_step, 1)
    training.validate = noted(training.validate, 2)
    utils.RunFolder._save = noted(utils.RunFolder._save, 3)
    if not full:
        test_training.quicken(pytest.MonkeyPatch())
    sys.argv = ['training.py', *argv]
    command_line.run(functools.partial(training.main, architecture=None if full else test_training.NETWORK))


class Life:
    """One process of a training."""

    def __init__(self, folder, data, full):
        self.phase_path, self.log_path = folder / 'phase', folder / 'log.txt'
        self.phase_path.write_bytes(b'\0')
        with open(self.log_path, 'a') as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, '--child', str(self.phase_path), *['--full'] * full,
                 '--', '-s', str(data), *FLAGS],
                cwd=folder, stdout=log, stderr=log)

    def phase(self):
        return PHASES[self.phase_path.read_bytes()[0]]

    def ends_within(self, seconds):
        try:
            self.process.wait(seconds)
            return True
        except subprocess.TimeoutExpired:
            return False

    def steps(self):
        """Waits until the first step has begun, or the end."""
        while self.phase() == 'start' and not self.ends_within(0.01):
            pass

    def kill(self):
        self.process.kill()
        self.process.wait()


def same(folder, reference):
    """Names what differs between two finished trainings, [] if nothing does."""
    import numpy as np
    from test_training import curves, last_state, utils, weights
    problems = []
    pairs = [('state', last_state(folder), last_state(reference)),
             ('model', *(weights(utils.find_checkpoint(str(one / 'saved_model'))) for one in (folder, reference)))]
    for name, got, expected in pairs:
        problems += [f'{name}: {variable}' for variable in got.keys() | expected.keys()
                     if not np.array_equal(got.get(variable), expected.get(variable))]
    got, expected = curves(folder / 'log'), curves(reference / 'log')
    if got != expected:
        points = collections.Counter(point[:2] for point in got), collections.Counter(point[:2] for point in expected)
        problems.append(f'curves: {len(got)} points instead of {len(expected)}; '
                        f'too many {dict(points[0] - points[1])}, missing {dict(points[1] - points[0])}')
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=50, help='How many processes are killed.')
    parser.add_argument('--seed', type=int, default=0, help='Decides the instants, as far as the machine allows.')
    parser.add_argument('--full', action='store_true', help='Train all of ENet.')
    parser.add_argument('--child', help=argparse.SUPPRESS)
    parser.add_argument('rest', nargs='*', help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        return child(flags.child, flags.full, flags.rest)

    import test_training
    chance, began = random.Random(flags.seed), time.monotonic()
    hits, rounds, lives, failed = collections.Counter(), 0, 0, False
    with tempfile.TemporaryDirectory() as home:
        home = pathlib.Path(home)
        data = test_training.draw(home / 'data', 20)
        (home / 'reference').mkdir()
        life = Life(home / 'reference', data, flags.full)
        life.steps()
        first_step = time.monotonic()
        if life.process.wait():
            sys.exit(f'the undisturbed training failed:\n{life.log_path.read_text()}')
        duration = time.monotonic() - first_step
        while sum(hits.values()) < flags.kills:
            folder = home / f'round{rounds}'
            folder.mkdir()
            ended = False
            while not ended:
                life = Life(folder, data, flags.full)
                lives += 1
                if sum(hits.values()) == flags.kills:
                    ended = life.ends_within(None)
                    continue
                if chance.random() < 0.2:   # while it starts
                    ended = life.ends_within(chance.uniform(0, 8))
                else:
                    life.steps()
                    ended = life.ends_within(chance.uniform(0, duration / 3))
                if not ended:
                    life.kill()
                    hits[life.phase()] += 1
            problems = same(folder, home / 'reference') if life.process.returncode == 0 else [life.log_path.read_text()]
            rounds += 1
            failed = failed or bool(problems)
            print(f'training {rounds}: {sum(hits.values())} kills so far, '
                  + ('; '.join(problems) if problems else 'the same bit for bit'), flush=True)
    where = ', '.join(f'{phase} {hits[phase]}' for phase in PHASES)
    print(f'{sum(hits.values())} kills ({where}), {lives} processes, {rounds} trainings of {EXPECTED} steps, '
          f'{time.monotonic() - began:.0f} seconds: ' + ('DIFFERENT' if failed else 'all the same bit for bit'))
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
