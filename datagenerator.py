"""From the pictures of a data set to batches: pairs of image and label, the split, one epoch, the training's queue.

image_shape is (width, height), as in OpenCV. Images are RGB uint8 [h, w, 3], raw 0..255: the graph normalises them.
Labels are [h, w], one number per instance and 0 for the background; the numbers themselves mean nothing. Whatever is
wrong with a file is an InputError of one line that names it.
"""

import collections
import concurrent.futures
import contextlib
import os
import threading
import uuid

import cv2
import numpy as np

from data.common import files, pictures, prefetch
from data.lanes import road_augmentation
from data.common.command_line import InputError


# ---- Samples ---------------------------------------------------------------------------------------------------------

def find_samples(srcdir):
    """Pairs srcdir/images/NAME.* with srcdir/labels/NAME.*. -> (image_paths, label_paths), two lists sorted by NAME

    Raises InputError if a folder is missing, empty or half-written, or a picture has no partner.
    """
    if os.path.lexists(os.path.join(srcdir, files.HALF_WRITTEN)):
        raise InputError(f'{srcdir}: is half-written; run the script that makes it again')
    by_name = []
    for folder in ('images', 'labels'):
        folder = os.path.join(srcdir, folder)
        paths = collections.defaultdict(list)
        advice = ('; python data/tusimple_dataset_processing.py DIR makes images and labels of TuSimple, '
                  'data/README.md has other data')
        for path in pictures.list_images(folder, advice):
            if folder.endswith('labels') and path.lower().endswith(('.jpg', '.jpeg')):
                raise InputError(f'{path}: a JPEG does not keep the grey values of a label; make it a PNG')
            paths[os.path.splitext(os.path.basename(path))[0]].append(path)
        for same in paths.values():
            if len(same) > 1:
                raise InputError(f'{same[1]}: has the same name as {same[0]}; which of the two is meant?')
        by_name.append({name: same[0] for name, same in paths.items()})
    images, labels = by_name
    unpaired = sorted(images.keys() ^ labels.keys())
    if unpaired:
        path = images.get(unpaired[0]) or labels[unpaired[0]]
        partner = 'label' if unpaired[0] in images else 'image'
        raise InputError(f'{path}: has no {partner} of the same name ({len(images)} images and '
                         f'{len(labels)} labels in {srcdir}, {len(unpaired)} without a partner)')
    return [images[name] for name in sorted(images)], [labels[name] for name in sorted(images)]


def split(image_paths, label_paths, seed=42):
    """Holds out a tenth of the samples, rounded up, as train_test_split(test_size=0.1, random_state=seed) of
    scikit-learn did in 2018. -> ((training images, training labels), (validation images, validation labels)), paths

    Raises InputError if there are fewer than two.
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
    """-> (image uint8 [h, w, 3] RGB, label uint8 or uint16 [h, w]). Raises InputError, also if their sizes differ."""
    image, label = pictures.read_image(image_path), pictures.read_label(label_path)
    if image.shape[:2] != label.shape:
        raise InputError(f'{label_path}: is {label.shape[1]} x {label.shape[0]}, '
                         f'but its photo {image_path} is {image.shape[1]} x {image.shape[0]}')
    return image, label


# ---- Batches ---------------------------------------------------------------------------------------------------------

def load_batch(image_paths, label_paths, image_shape):
    """Samples as they are, resized. -> (images uint8 [b, h, w, 3] RGB, labels int32 [b, h, w])"""
    (images, labels), = get_batches_fn(len(image_paths), image_shape, image_paths, label_paths)
    return images, labels


def get_batches_fn(batch_size, image_shape, image_paths, label_paths, seed=None, with_sizes=False):
    """One epoch in the order of the paths, or in an order drawn from seed; read in the caller's thread.

    -> iterator of (images uint8 [b, h, w, 3] RGB, labels int32 [b, h, w]), the last of which may have fewer samples;
    if with_sizes, of (images, labels, sizes): [(width, height)] of the photos before they were resized
    """
    order = np.arange(len(image_paths)) if seed is None else np.random.default_rng(seed).permutation(len(image_paths))
    for start in range(0, len(order), batch_size):
        samples = [read_sample(image_paths[i], label_paths[i]) for i in order[start:start + batch_size]]
        images = np.stack([pictures.resize_image(image, image_shape) for image, _ in samples])
        labels = np.stack([pictures.resize_label(label, image_shape) for _, label in samples], dtype=np.int32)
        yield (images, labels, [label.shape[::-1] for _, label in samples]) if with_sizes else (images, labels)


def get_validation_batch(data_dir, image_shape, most=None):
    """The photos of data_dir that `split` holds out, the first `most` or all. -> (images, labels), as load_batch"""
    _, validation = split(*find_samples(data_dir))
    return load_batch(*(paths[:most] for paths in validation), image_shape)


# ---- The queue -------------------------------------------------------------------------------------------------------

Batch = collections.namedtuple('Batch', 'images labels paths')
Batch.__doc__ = """One step's images uint8 [b, h, w, 3] RGB, labels int32 [b, h, w], paths of the photos string [b]."""


def steps_per_epoch(num_samples, batch_size):
    """batch_size: photos per step, of all shards together. -> int, at least 1"""
    return max(1, num_samples // batch_size)


class BatchQueue:
    """A tf.FIFOQueue of the default graph that threads fill with batches, in an order that only the seed decides.

        queue = BatchQueue(image_paths, label_paths, batch_size, image_shape, seed=1)
        batch = queue.dequeue()
        ...
        threads = queue.start(sess, coord, start_step)
        ...
        coord.request_stop()
        coord.join(threads)

    Epoch e visits the samples in a permutation drawn from (seed, e), without the remainder that fills no batch (another
    remainder each epoch); a data set smaller than a batch is gone through again to fill it. What happens to a sample is
    drawn from (seed, epoch, position). So step s is the same whatever the number of workers and wherever start_step
    began, and with shard (i, n) the n queues of batch b together yield at each step what one queue of batch n b yields.

    `workers` threads read, augment and resize; one more enqueues, so that at most `capacity` batches wait. Decoded
    samples are kept in memory up to cache_bytes. The queue and what fills it are on the device of the scope that is
    active when the object is made. Raises ValueError for an empty data set.
    """

    OVERSAMPLING = 1.5   # photos are kept at this many times image_shape, so that warps stay sharp

    def __init__(self, image_paths, label_paths, batch_size, image_shape, seed=0, workers=2, capacity=8,
                 augment=road_augmentation.augment,
                 shard=(0, 1), cache_bytes=2 ** 30):
        if not len(image_paths) or len(image_paths) != len(label_paths):
            raise ValueError(f'{len(image_paths)} images and {len(label_paths)} labels make no data set')
        import tensorflow.compat.v1 as tf   # takes seconds: data sets are checked before
        cv2.setNumThreads(1)   # the queue's threads use the cores; OpenCV's would get in TensorFlow's way
        self._paths = list(zip(image_paths, label_paths))
        self._batch_size, self._image_shape, self._workers = batch_size, tuple(image_shape), workers
        self._seed, self._augment, self._shard = seed, augment, shard
        self.steps_per_epoch = steps_per_epoch(len(self._paths), batch_size * shard[1])
        self._cache, self._cache_left, self._cache_lock = {}, cache_bytes, threading.Lock()

        width, height = image_shape
        shapes = [[batch_size, height, width, 3], [batch_size, height, width], [batch_size]]
        types = [tf.uint8, tf.int32, tf.string]
        # Without a name of its own, a queue is shared by all graphs of a server that have a node of its name.
        self._queue = tf.FIFOQueue(capacity, types, shapes, shared_name=f'batches-{uuid.uuid4().hex}')
        self._fed = Batch(*(tf.placeholder(dtype, shape) for dtype, shape in zip(types, shapes)))
        self._enqueue = self._queue.enqueue(self._fed)
        self._close = self._queue.close(cancel_pending_enqueues=True)

    def dequeue(self):
        """-> Batch of tensors: the next step's, each time that they are run.

        Once the queue is stopped and empty, running them raises tf.errors.OutOfRangeError.
        """
        return Batch(*self._queue.dequeue())

    def start(self, sess, coord, start_step=0):
        """Starts to fill the queue from step start_step on. -> threads, which coord joins

        coord: tf.train.Coordinator; when it stops, so do the threads, and the queue is closed for good. An exception of
        a worker, such as the InputError that names a file, stops it and is raised by its join.
        """
        threads = [threading.Thread(target=self._fill, args=(sess, coord, start_step), name='enqueue', daemon=True),
                   threading.Thread(target=self._close_on_stop, args=(sess, coord), name='close', daemon=True)]
        for thread in threads:
            coord.register_thread(thread)
            thread.start()
        return threads

    def _fill(self, sess, coord, start_step):
        with coord.stop_on_exception(), concurrent.futures.ThreadPoolExecutor(self._workers, 'loader') as pool:
            samples = prefetch.in_order(pool, self._load, self._order(start_step), self._batch_size + self._workers)
            with contextlib.closing(samples):   # what has not begun at a stop is cancelled
                batch = []
                for sample in samples:
                    if coord.should_stop():
                        return
                    batch.append(sample)
                    if len(batch) == self._batch_size:
                        try:
                            sess.run(self._enqueue, dict(zip(self._fed, self._stack(batch))))
                        except Exception:
                            if coord.should_stop():   # it was cancelled
                                return
                            raise
                        batch = []

    def _stack(self, samples):
        images, labels, paths = zip(*samples)
        return np.stack(images), np.stack(labels, dtype=np.int32), paths

    def _close_on_stop(self, sess, coord):
        coord.wait_for_stop()
        with contextlib.suppress(Exception):   # of a session that has ended, and the queue with it
            sess.run(self._close)

    def _order(self, start_step):
        """Yields (epoch, position in the epoch, index of the sample) of this shard's samples, for ever."""
        epoch, first_step = divmod(start_step, self.steps_per_epoch)
        shard, shards = self._shard
        while True:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._paths))
            for step in range(first_step, self.steps_per_epoch):
                first = (step * shards + shard) * self._batch_size
                for position in range(first, first + self._batch_size):
                    yield epoch, position, order[position % len(order)]
            epoch, first_step = epoch + 1, 0

    def _load(self, place):
        """-> (image, label, path of the photo) of what _order yields, as they are enqueued."""
        epoch, position, index = place
        image, label = self._read(index)
        if self._augment:
            rng = np.random.default_rng([self._seed, epoch, position])
            image, label = self._augment(image, label, rng, self._image_shape)
        return image, label, os.fsencode(self._paths[index][0])

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
            sample = pictures.resize_image(image, size), pictures.resize_label(label, size)
            cost = sum(array.nbytes for array in sample)
            with self._cache_lock:
                if cost <= self._cache_left and index not in self._cache:
                    self._cache[index] = sample
                    self._cache_left -= cost
        return sample
