"""From files to arrays: where photos and labels are read, checked, resized, augmented and batched.

image_shape is (width, height) as in OpenCV. Images are RGB uint8 [h, w, 3], raw 0..255: the graph normalises
them. Labels are [h, w] with one number an instance, 0 for the background; the numbers themselves mean
nothing. Whatever is wrong with a file is an InputError of one line that names it.
"""

import collections
import functools
import os
import threading

import cv2
import numpy as np

from data import augmentation, files
from data.command_line import InputError

# Of what a model reads and gives; more, by a slip or in a stranger's file, would take all memory.
MAX_SIDE, MAX_MODEL_PIXELS, MAX_FEATURE_DIM = 2 ** 15, 2 ** 24, 2 ** 10


def check_checkpoint_folder(path):
    """Raises InputError for a folder from which TensorFlow could not read a checkpoint that it had written there."""
    path = os.fspath(path)
    if '[' in path or '\\' in path and os.sep == '/':
        raise InputError(f'{path}: TensorFlow reads no checkpoint from a path with [ or \\ in it; rename the folder')


# ---- Data sets ---------------------------------------------------------------------------------------------

def find_samples(srcdir):
    """Pair srcdir/images/NAME.* with srcdir/labels/NAME.*: sorted (image_paths, label_paths).

    Raises InputError where a folder is missing, empty or half-written, or a picture has no partner.
    """
    if os.path.lexists(os.path.join(srcdir, files.HALF_WRITTEN)):
        raise InputError(f'{srcdir}: is half-written; run tusimple_dataset_processing.py again')
    by_name = []
    for folder in ('images', 'labels'):
        folder = os.path.join(srcdir, folder)
        paths = collections.defaultdict(list)
        for path in files.list_images(folder, '; make images and labels with python data/tusimple_dataset_processing.py DIR'):
            if folder.endswith('labels') and path.lower().endswith(('.jpg', '.jpeg')):
                raise InputError(f'{path}: a JPEG does not keep the grey values of a label; make it a PNG')
            paths[os.path.splitext(os.path.basename(path))[0]].append(path)
        for same in paths.values():
            if len(same) > 1:
                raise InputError(f'{same[1]}: has the same name as {same[0]}; which of the two is meant?')
        by_name.append({name: same[0] for name, same in paths.items()})
    images, labels = by_name
    alone = sorted(images.keys() ^ labels.keys())
    if alone:
        path = images.get(alone[0]) or labels[alone[0]]
        partner = 'label' if alone[0] in images else 'image'
        raise InputError(f'{path}: has no {partner} of the same name ({len(images)} images and '
                         f'{len(labels)} labels in {srcdir}, {len(alone)} without a partner)')
    return [images[name] for name in sorted(images)], [labels[name] for name in sorted(images)]


def split(image_paths, label_paths, seed=42):
    """Hold a tenth out, rounded up: ((train images, train labels), (validation images, validation labels)).

    As scikit-learn's train_test_split(test_size=0.1, random_state=seed) did in 2018. Of 2 to 10 samples one
    is held out. Raises InputError for fewer than two.
    """
    count = len(image_paths)
    if count < 2:
        raise InputError(f'{image_paths[0] if count else "no samples"}: at least two samples are needed, '
                         'one to train on and one to validate on')
    order = np.random.RandomState(seed).permutation(count)
    held_out = -(-count // 10)
    return tuple(([image_paths[i] for i in part], [label_paths[i] for i in part])
                 for part in (order[held_out:], order[:held_out]))


def read_sample(image_path, label_path):
    """read_image and read_label of one sample; InputError also where their sizes differ."""
    image, label = files.read_image(image_path), files.read_label(label_path)
    if image.shape[:2] != label.shape:
        raise InputError(f'{label_path}: is {label.shape[1]} x {label.shape[0]}, '
                         f'but its photo {image_path} is {image.shape[1]} x {image.shape[0]}')
    return image, label


def load_batch(image_paths, label_paths, image_shape):
    """Samples as they are, resized: images uint8 [b, h, w, 3] RGB and labels int32 [b, h, w]."""
    images, labels = [], []
    for paths in zip(image_paths, label_paths):
        image, label = read_sample(*paths)
        images.append(files.resize_image(image, image_shape))
        labels.append(files.resize_label(label, image_shape))
    return np.stack(images), np.stack(labels).astype(np.int32)


def get_batches_fn(batch_size, image_shape, image_paths, label_paths, seed=None):
    """Yield (images uint8 [b, h, w, 3], labels int32 [b, h, w]) for one epoch in a random order.

    image_shape is (width, height); the last batch may be smaller. Reads in the caller's thread; BatchQueue
    reads ahead.
    """
    order = np.random.default_rng(seed).permutation(len(image_paths))
    for start in range(0, len(order), batch_size):
        picked = order[start:start + batch_size]
        yield load_batch([image_paths[i] for i in picked], [label_paths[i] for i in picked], image_shape)


def get_validation_batch(data_dir, image_shape):
    """The held-out tenth of data_dir/images and data_dir/labels as one batch, as load_batch gives it."""
    _, validation = split(*find_samples(data_dir))
    return load_batch(*validation, image_shape)


# ---- The queue ---------------------------------------------------------------------------------------------

Batch = collections.namedtuple('Batch', 'images labels paths')
Batch.__doc__ = """One step's images uint8 [b, h, w, 3] RGB, labels int32 [b, h, w] and paths of the photos."""


class QueueEnd(Exception):
    """BatchQueue has no more to give: the coordinator or close() has stopped it."""


def steps_per_epoch(num_samples, batch_size):
    """batch_size: photos of a step, of all shards together."""
    return max(1, num_samples // batch_size)


class BatchQueue:
    """Batches read, decoded, augmented and resized ahead by threads, in an order that only the seed decides.

        with BatchQueue(images, labels, batch_size, image_shape, coord, seed=1) as queue:
            batch = queue.get()

    Epoch e visits the samples in a permutation drawn from (seed, e), without the remainder that fills no
    batch (another remainder each epoch); a data set smaller than a batch is gone through again to fill it.
    What happens to a sample is drawn from (seed, epoch, position). So step s is the same whatever the number
    of workers and wherever start_step began, and with shard (i, n) the n queues of batch b together give at
    each step what one queue of batch n b gives.

    coord is a tf.train.Coordinator (or has its should_stop, request_stop, raise_requested_exception,
    register_thread). An exception in a worker stops it, and get() raises that exception. At most capacity
    batches wait; decoded samples are kept in memory up to cache_bytes.
    """

    POLL_SECONDS = 0.1   # a coordinator that is stopped from outside cannot wake us
    OVERSAMPLING = 1.5   # photos are kept at this many times image_shape, so that warps stay sharp

    def __init__(self, image_paths, label_paths, batch_size, image_shape, coord, seed=0, workers=2,
                 capacity=8, augment=True, start_step=0, shard=(0, 1), cache_bytes=2 ** 30):
        if not len(image_paths) or len(image_paths) != len(label_paths):
            raise ValueError(f'{len(image_paths)} images and {len(label_paths)} labels make no data set')
        cv2.setNumThreads(1)   # the queue's threads use the cores; OpenCV's would get in TensorFlow's way
        self._paths = list(zip(image_paths, label_paths))
        self._batch_size, self._image_shape, self._capacity = batch_size, tuple(image_shape), capacity
        self._coord, self._seed, self._augment, self._shard = coord, seed, augment, shard
        self.steps_per_epoch = steps_per_epoch(len(self._paths), batch_size * shard[1])
        # The workers can be an epoch ahead of get().
        self._order = functools.lru_cache(2)(
            lambda epoch: np.random.default_rng([seed, epoch]).permutation(len(self._paths)))
        self._cache, self._cache_left = {}, cache_bytes
        # Samples are numbered through all steps; the condition guards everything that changes below.
        self._condition = threading.Condition()
        self._step = start_step                      # of the next get()
        self._next_sample = start_step * batch_size  # the next one for a worker to take
        self._ready = {}                             # number -> (image, label)
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f'loader-{i}', daemon=True)
                         for i in range(workers)]
        for thread in self._threads:
            coord.register_thread(thread)
            thread.start()

    def get(self):
        """The next step's Batch. Never waits in vain: raises a worker's exception, or QueueEnd."""
        with self._condition:
            first = self._step * self._batch_size
            numbers = range(first, first + self._batch_size)
            while True:
                if self._closed:
                    raise QueueEnd('the queue is closed')
                if self._coord.should_stop():
                    self._coord.raise_requested_exception()
                    raise QueueEnd('the coordinator has stopped the queue')
                if all(number in self._ready for number in numbers):
                    break
                if not any(thread.is_alive() for thread in self._threads):
                    raise RuntimeError('all loader threads are dead')
                self._condition.wait(self.POLL_SECONDS)
            samples = [self._ready.pop(number) for number in numbers]
            self._step += 1
            self._condition.notify_all()
        return Batch(images=np.stack([image for image, _ in samples]),
                     labels=np.stack([label for _, label in samples]).astype(np.int32),
                     paths=tuple(self._paths[self._locate(number)[2]][0] for number in numbers))

    def close(self):
        """Stop the workers and wait until they are gone; the coordinator runs on. Can be called again."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _work(self):
        try:
            while not self._coord.should_stop():
                number = self._take()
                if number is None:
                    return
                sample = self._load(number)
                with self._condition:
                    self._ready[number] = sample
                    self._condition.notify_all()
        except BaseException as error:   # whatever it is, nobody may wait for this thread's samples
            if not isinstance(error, Exception):
                error = RuntimeError(f'a loader thread died: {error!r}')
            self._coord.request_stop((type(error), error, error.__traceback__))
            with self._condition:
                self._condition.notify_all()

    def _take(self):
        """The number of the next sample to make, once there is room for it; None at the end."""
        with self._condition:
            while not (self._closed or self._coord.should_stop()):
                if self._next_sample < (self._step + self._capacity) * self._batch_size:
                    self._next_sample += 1
                    return self._next_sample - 1
                self._condition.wait(self.POLL_SECONDS)
            return None

    def _locate(self, number):
        """(epoch, position in the epoch, index of the sample) of this shard's sample of that number."""
        step, within = divmod(number, self._batch_size)
        epoch, step = divmod(step, self.steps_per_epoch)
        shard, shards = self._shard
        position = (step * shards + shard) * self._batch_size + within
        return epoch, position, self._order(epoch)[position % len(self._paths)]

    def _load(self, number):
        epoch, position, index = self._locate(number)
        image, label = self._read(index)
        if self._augment:
            rng = np.random.default_rng([self._seed, epoch, position])
            return augmentation.augment(image, label, rng, self._image_shape)
        return image, label

    def _read(self, index):
        """A sample at the size that is kept. Kept or read anew, it is the same."""
        sample = self._cache.get(index)
        if sample is None:
            image, label = read_sample(*self._paths[index])
            size = self._image_shape
            if self._augment:   # the camera's aspect ratio is kept, as rotations need it
                height, width = label.shape
                ratio = min(1, self.OVERSAMPLING * max(size[0] / width, size[1] / height))
                size = round(width * ratio), round(height * ratio)
            sample = files.resize_image(image, size), files.resize_label(label, size)
            cost = sum(array.nbytes for array in sample)
            with self._condition:
                if cost <= self._cache_left and index not in self._cache:
                    self._cache[index] = sample
                    self._cache_left -= cost
        return sample
