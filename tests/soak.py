"""Kills runs at random moments and compares the results with a run that was never killed.

    python tests/soak.py --kills 50
    python tests/soak.py --kills 20 --cluster worker         a chief and a worker; or chief, or both

Real processes of training.py, which save after every step, are killed by SIGKILL and restarted until they are done,
over and over. The weights, the optimizer's state and the TensorBoard curves of each finished run must equal those of
the undisturbed one, bit for bit; the exit status is 1 if any is not. Data and network are the small ones of the tests.
"""
import argparse
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path[:0] = [os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.dirname(os.path.abspath(__file__))]

from test_cluster import Processes
from test_training import curves, draw, last_state, utils, weights

FLAGS = ['--epochs', '10', '--image-size', '64', '32', '--learning-rate', '0.003', '--workers', '1']   # of 4 steps
START = 12.   # maximum seconds until a restarted process is killed while it starts, which happens one time in five


class Run(Processes):
    """The processes of a run, alone or a chief and a worker, in a new folder."""

    def __init__(self, folder, data, cluster):
        folder.mkdir()
        super().__init__(folder, 'run_small', ['-s', data, *FLAGS, '--batch-size', 4 - 2 * cluster],
                         ['chief', 'worker'][:1 + cluster])
        self.start()

    def is_done(self, seconds=0.):
        """Waits until all have ended, but not longer than `seconds` if the chief has not. -> whether they have"""
        try:
            statuses = [self.processes['chief'].wait(seconds)]
        except subprocess.TimeoutExpired:
            return False
        try:
            statuses += [process.wait(60) for process in self.processes.values()]
        except subprocess.TimeoutExpired:   # a worker that restarts after the chief has ended waits for ever
            self.kill('worker')
        if any(statuses):
            sys.exit(f'failed: {self.log()}')
        return True

    def wait_for_a_step(self):
        """Waits for a step later than the newest state, or for the end."""
        before = self._newest_state()
        while self._newest_state() == before and not self.is_done(0.02):
            pass

    def _newest_state(self):
        path = self.folder / 'saved_model/resume/checkpoint'
        return path.read_text() if path.exists() else ''


def differences(folder, reference):
    """The differences between two finished runs. -> list of str"""
    problems, largest = [], 0.
    for got, expected in ((last_state(folder), last_state(reference)),
                          [weights(utils.find_checkpoint(str(one / 'saved_model'))) for one in (folder, reference)]):
        for name in got.keys() | expected.keys():
            if not np.array_equal(got.get(name), expected.get(name)):
                problems.append(name)
                largest = max(largest, np.abs(got.get(name, np.inf) - expected.get(name, np.inf)).max())
    if curves(folder / 'log') != curves(reference / 'log'):
        problems.append('curves')
    return [f'{len(problems)} differ, by up to {largest:.1e}: {", ".join(problems[:3])}'] if problems else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=50, help='Number of processes to kill.')
    parser.add_argument('--cluster', choices=['chief', 'worker', 'both'], help='Which process of a cluster to kill.')
    parser.add_argument('--seed', type=int, default=0, help='Seed of the instants, as far as the machine allows.')
    flags = parser.parse_args()
    chance, began, kills, rounds, failed = random.Random(flags.seed), time.monotonic(), 0, 0, False
    with tempfile.TemporaryDirectory() as home:
        home = pathlib.Path(home)
        data = draw(home / 'data', 20)   # 18 of them for training
        reference = Run(home / 'reference', data, bool(flags.cluster))
        reference.wait_for_a_step()
        first_step = time.monotonic()
        reference.is_done(None)
        duration = time.monotonic() - first_step
        while kills < flags.kills:
            run = Run(home / f'run{rounds}', data, bool(flags.cluster))
            while not run.is_done(None if kills == flags.kills else 0.):
                if chance.random() < 0.2:
                    ended = run.is_done(chance.uniform(0, START))
                else:
                    run.wait_for_a_step()
                    ended = run.is_done(chance.uniform(0, duration / 3))
                if not ended:
                    name = chance.choice(['chief', 'worker']) if flags.cluster == 'both' else flags.cluster or 'chief'
                    run.kill(name)
                    run.start(name)
                    kills += 1
            problems = differences(run.folder, home / 'reference')
            rounds, failed = rounds + 1, failed or bool(problems)
            print(f'run {rounds}: {kills} kills so far, {"; ".join(problems) or "the same bit for bit"}', flush=True)
    print(f'{kills} kills, {rounds} runs of 40 steps, {time.monotonic() - began:.0f} seconds: '
          + ('DIFFERENT' if failed else 'all the same bit for bit'))
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
