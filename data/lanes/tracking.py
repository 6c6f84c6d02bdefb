"""Lane tracking in videos: constant ids and lines without jitter. NumPy and SciPy.

    tracker = LaneTracker(h_samples, frame_rate)
    ids, lines = tracker.update(lanes)   # once per frame; lanes as from lines.lanes; 0: no id yet

Lanes move in the image mostly because the camera moves, and then all together. This common motion, in which noise
averages out, is followed quickly; the remaining motion of each lane is mostly noise and is smoothed strongly.

    predict   all lanes move with the velocity of the common motion
    match     lanes to tracks by the distance of the lines, gated; new tracks get an id after a few matches
    correct   the common motion, by an alpha-beta filter with the gains of Benedict and Bordner, Synthesis of an Optimal
              Set of Radar Track-While-Scan Smoothing Equations, 1962; each lane's deviation, by an exponential average
"""
import numpy as np
from scipy import optimize

# Match
_GATE = 0.4  # mean distance of a lane from its prediction, px per row below the horizon; adjacent lanes are 2 apart
_HORIZON = 25  # rows between the horizon and the first row of the lanes
_UNSHARED = 30.0  # px: cost where no row is shared, scaled by the share of rows in which only one of two lines exists
_MIN_SHARED = 2  # rows
_YOUNG, _YOUNG_TIME = 60.0, 0.5  # px added for a new track, so that of two on one line the older wins; its decay, s

# Correct
_COMMON_TIME, _LANE_TIME = 0.04, 0.35  # time constants, s
_RIDGE = 10.0, 1.0, 10.0, 3.0  # ridge weight of each of _motions, for those that the lanes do not determine
_OUTLIER = 4.0  # px from the common motion: rows that deviate more get weights below 1
_REWEIGHTINGS = 4  # of the fit


class LaneTracker:
    """The tracks of a video's lanes: ids, lines and their common motion."""

    def __init__(self, h_samples, frame_rate, smoothing=True, max_gap=0.5, min_time=0.2):
        """h_samples: rows of the lines, px, ascending; frame_rate: frames per second

        smoothing: whether update returns filtered lines; max_gap: seconds for which a missing lane keeps its id
        min_time: seconds until a new lane gets an id; immediate in the first frames
        """
        self.rows, self.frame_rate, self.smoothing = np.asarray(h_samples, np.float64), frame_rate, smoothing
        self.max_unseen, self.min_seen = round(max_gap * frame_rate), round(min_time * frame_rate)
        self.frames = 0  # number of earlier frames
        self.common_gain, self.lane_gain = (1 - np.exp(-1 / (seconds * frame_rate))
                                            for seconds in (_COMMON_TIME, _LANE_TIME))
        self.last_id = 0
        self.velocity = np.zeros(len(_RIDGE))  # of the common motion, per frame
        self.ids = np.zeros(0, int)  # of the tracks, 0 while they have none
        self.age = np.zeros(0, int)  # frames since a track's first detection
        self.seen = np.zeros(0, int)  # frames in which a track was detected
        self.x = np.zeros([0, len(self.rows)])  # px
        self.unseen = np.zeros([0, len(self.rows)], int)  # frames since a row was last detected

    def update(self, lanes):
        """lanes: of the next frame, list of float [len(h_samples)], x in px, negative where a lane is absent

        -> (ids int [len(lanes)], lines float64 [len(lanes), len(h_samples)]), in the order of the lanes. Ids count from
        1 and are not reused; 0: no id yet, see min_time. Lines are -2 where the lanes are absent.
        """
        lanes = np.asarray(lanes, np.float64).reshape(len(lanes), len(self.rows))
        present, recent = lanes >= 0, self.unseen <= self.max_unseen   # rows with points of a lane, of a track
        if not len(self.ids):
            self.velocity[:] = 0
        horizon = self.rows[np.concatenate([present, recent]).any(0).argmax()] - _HORIZON
        motions = _motions(self.x, recent, self.rows, horizon)

        self.x += self.velocity @ motions
        young = _YOUNG * np.exp(-self.age / (_YOUNG_TIME * self.frame_rate))
        tracks, found = _match(self.x, recent, lanes, present, self.rows - horizon, young)
        self._correct(tracks, lanes[found], present[found], recent[tracks], motions)

        self.age, self.unseen = self.age + 1, self.unseen + 1
        self.unseen[tracks] *= ~present[found]
        self.seen[tracks] += 1
        lines = np.where(present, lanes, -2)
        if self.smoothing:
            lines[found] = np.where(present[found], np.maximum(self.x[tracks], 0), -2)
        place = np.full(len(lanes), -1)  # of each lane's track
        place[found] = tracks
        new = np.flatnonzero(place < 0)
        place[new] = len(self.ids) + np.arange(len(new))
        self.ids = np.append(self.ids, np.zeros(len(new), int))
        self.age, self.seen = (np.append(values, np.ones(len(new), int)) for values in (self.age, self.seen))
        self.x = np.concatenate([self.x, lanes[new]])
        self.unseen = np.concatenate([self.unseen, np.where(present[new], 0, self.max_unseen + 1)])
        due = place[(self.ids[place] == 0) & ((self.seen[place] > self.min_seen) | (self.frames <= self.min_seen))]
        self.ids[due] = self.last_id + 1 + np.arange(len(due))
        ids = self.ids[place]
        self.last_id, self.frames = self.last_id + len(due), self.frames + 1
        keep = (self.unseen <= self.max_unseen).any(1)
        for name in ('ids', 'age', 'seen', 'x', 'unseen'):
            setattr(self, name, getattr(self, name)[keep])
        return ids, lines

    def _correct(self, tracks, lanes, present, recent, motions):
        """Moves all tracks by the common motion, and those in `tracks`, int [M], towards their lanes, [M, rows]."""
        shared = recent & present
        deviation = lanes - self.x[tracks]
        # Only lanes seen in the last frame: one that returns after a gap may have drifted.
        motion = _fit_motion(motions[tracks], deviation, shared & (self.unseen[tracks] == 0))
        self.x += self.common_gain * motion @ motions
        self.velocity += self.common_gain ** 2 / (2 - self.common_gain) * motion
        deviation -= motion @ motions[tracks]
        # The longer a lane was missing, and the younger its track, the more its detection counts, equally in all rows.
        waited = self.unseen[tracks].min(1, keepdims=True) + 1
        gain = np.maximum(1 - (1 - self.lane_gain) ** waited, 1 / (self.age[tracks, None] + 1))
        for track, lane, has_row, in_both, step in zip(tracks, lanes, present, shared, gain * deviation):
            self.x[track, in_both] += step[in_both]
            # New rows start with the offset of the nearest old one, to avoid a step in the line.
            new = has_row & ~in_both
            offset = (self.x[track] - lane)[in_both]
            self.x[track, new] = lane[new] + np.interp(self.rows[new], self.rows[in_both], offset)


def _match(x, recent, lanes, present, below_horizon, young):
    """Assigns lanes, [L, rows], to the tracks with lines x, [K, rows], at the least total cost.

    recent, present: bool [K, rows] and [L, rows], the rows in which the tracks and the lanes have points
    The cost is the mean |distance in x| over shared rows, plus a cost for rows in which only one of them exists (where
    a lane forks, its id stays with the longer branch), plus young, [K], px. -> (tracks int [M], lanes int [M])
    """
    shared, either = recent[:, None] & present, recent[:, None] | present
    count = shared.sum(2)
    distance = (np.abs(x[:, None] - lanes) * shared).sum(2) / np.maximum(count, 1)
    gate = _GATE * (below_horizon * shared).sum(2) / np.maximum(count, 1)
    possible = (distance <= gate) & (count >= _MIN_SHARED)
    cost = distance + _UNSHARED * (1 - count / np.maximum(either.sum(2), 1)) + young[:, None]
    tracks, found = optimize.linear_sum_assignment(np.where(possible, cost, 1e6))
    good = possible[tracks, found]
    return tracks[good], found[good]


def _motions(x, recent, rows, horizon):
    """How lines x, [K, rows], move in the image with the camera and the road. -> float64 [K, 4, rows], px

    recent: bool [K, rows], where the lines have points
    On a flat road in perspective, x = c + yaw + position / depth + curvature * depth, with depth = 1 / (row - horizon),
    so the motions are 1, row - horizon, 1 / (row - horizon) and, for the pitch, dx / drow of each line.
    """
    below = np.maximum(rows - horizon, _HORIZON)
    motions = np.zeros([len(x), len(_RIDGE), len(rows)])
    motions[:, :3] = np.ones(len(rows)), below / below.max(initial=1), _HORIZON / below
    for line, has_row, motion in zip(x, recent, motions):
        if np.count_nonzero(has_row) > 1:
            motion[3] = np.interp(rows, rows[has_row], np.gradient(line[has_row], rows[has_row]))
    return motions


def _fit_motion(motions, deviation, mask):
    """The motion that best explains deviations of lines, [K, rows], in the rows of a mask, bool [K, rows]. motions:
    [K, 4, rows] -> float64 [4], the amount of each"""
    matrix, target = motions.transpose(0, 2, 1)[mask], deviation[mask]
    weight, motion = np.ones(len(target)), np.zeros(len(_RIDGE))
    for _ in range(_REWEIGHTINGS if len(target) else 0):
        weighted = matrix.T * weight
        motion = np.linalg.solve(weighted @ matrix + np.diag(_RIDGE), weighted @ target)
        weight = np.minimum(1, _OUTLIER / np.maximum(np.abs(target - matrix @ motion), 1e-9)) ** 2
    return motion
