"""From image files to batches: pairs of image and label, the split, one epoch in order, the training queue.

image_shape is (width, height), as in OpenCV. Images are RGB uint8 [h, w, 3], raw 0..255: the graph normalises them.
Labels are [h, w], one number per instance and 0 for the background; the numbers carry no order. In batches they are
int32, and negative where a pixel is ignored. A file that cannot be used is an InputError of one line that names it.
"""
import concurrent.futures
import contextlib
import os
import re
import threading
import uuid
from typing import NamedTuple

import cv2
import numpy as np

from data.common import files, pictures, pipeline
from data.common.command_line import InputError
from data.lanes import road_augmentation

# ---- Samples ---------------------------------------------------------------------------------------------------------


def find_samples(srcdir):
    """Pairs srcdir/images/NAME.* with srcdir/labels/NAME.*. -> (image_paths, label_paths), two lists sorted by NAME

    Raises InputError if a folder is missing, empty or unfinished, or an image or label has no partner.
    """
    if os.path.lexists(os.path.join(srcdir, files.HALF_WRITTEN)):
        raise InputError(f'{srcdir}: is half-written; rerun the script that made it')
    images, labels = (_list_by_name(srcdir, folder) for folder in ('images', 'labels'))
    for name in sorted(images.keys() ^ labels.keys()):
        path, partner = (images[name], 'label') if name in images else (labels[name], 'image')
        raise InputError(f'{path}: has no {partner} of the same name ({len(images)} images and {len(labels)} labels)')
    return [images[name] for name in sorted(images)], [labels[name] for name in sorted(images)]


def _list_by_name(srcdir, folder):
    """-> {name without extension: path}"""
    by_name = {}
    for path in pictures.list_images(os.path.join(srcdir, folder), '; see data/README.md'):
        name, extension = os.path.splitext(os.path.basename(path))
        if name in by_name:
            raise InputError(f'{path}: has the same name as {by_name[name]}, which is ambiguous')
        if folder == 'labels' and extension.lower() in ('.jpg', '.jpeg'):
            raise InputError(f'{path}: a JPEG does not keep the grey values of a label; make it a PNG')
        by_name[name] = path
    return by_name


def split(image_paths, label_paths, most=200, seed=42):
    """Holds out a tenth of the samples, rounded up, but at most `most`; all others are for training.

    Up to `most` this is scikit-learn's train_test_split(test_size=0.1, random_state=seed); beyond, its first ones.
    -> ((training images, training labels), (validation images, validation labels)), paths
    Raises InputError if there are fewer than two.
    """
    count = len(image_paths)
    if count < 2:
        raise InputError(f'{image_paths[0] if count else "no samples"}: at least two samples are needed, '
                         'one to train on and one to validate on')
    order = np.random.RandomState(seed).permutation(count)
    held_out = min(most, -(-count // 10))
    return tuple(([image_paths[i] for i in part], [label_paths[i] for i in part])
                 for part in (order[held_out:], order[:held_out]))


class Source(NamedTuple):
    """A prepared folder and its share of each batch. train, valid: (image paths, label paths), as of `split`."""
    folder: str
    share: float
    train: tuple
    valid: tuple


def find_sources(texts, most=200):
    """texts: 'FOLDER' or 'FOLDER:SHARE' each; the default share is the number of training samples. -> [Source]

    A text that is the path of a folder has no share, even if it ends like one.
    most: samples held out of all folders together, the same limit for each. Raises InputError as find_samples and split
    do, and for a share of 0.
    """
    sources = []
    for text in texts:
        match = None if os.path.isdir(text) else re.fullmatch(r'(.+):(\d*\.?\d+)', text)
        folder, share = match.groups() if match else (text, None)
        train, valid = split(*find_samples(folder), most=max(1, most // len(texts)))
        sources.append(Source(folder, float(share or len(train[0])), train, valid))
        if not sources[-1].share:
            raise InputError(f'{text}: the share has to be above 0')
    return sources


def mark_ignored(label, ignore):
    """label: uint8 or uint16 [h, w]. ignore: its value at ignored pixels, or None. -> int32 [h, w], -1 at these"""
    signed = label.astype(np.int32)
    if ignore is not None:
        signed[label == ignore] = -1
    return signed


def check_classes(label, path, num_classes):
    """label: of `mark_ignored`. Raises InputError if num_classes is not 0, and the label has values of no class."""
    for value in np.unique(label[label > 0]) if num_classes else ():
        if not 1 <= value // 1000 <= num_classes:
            raise InputError(f'{path}: has the value {value}, but with the names of {num_classes} classes, an instance '
                             f'has class * 1000 + n, with a class from 1 to {num_classes}')


# ---- One epoch in order ----------------------------------------------------------------------------------------------

def get_batches_fn(batch_size, image_shape, image_paths, label_paths, with_sizes=False, ignore=None, num_classes=0):
    """One epoch in the order of the paths. ignore: see `mark_ignored`; num_classes: see `check_classes`.

    -> iterator of (images uint8 [b, h, w, 3] RGB, labels int32 [b, h, w]), the last of which may have fewer samples;
    if with_sizes, of (images, labels, sizes): [(width, height)] of the images before resizing
    """
    for start in range(0, len(image_paths), batch_size):
        part = slice(start, start + batch_size)
        samples = [pictures.read_pair(*paths) for paths in zip(image_paths[part], label_paths[part])]
        images = np.stack([pictures.resize_image(image, image_shape) for image, _ in samples])
        labels = np.stack([mark_ignored(pictures.resize_label(label, image_shape), ignore) for _, label in samples])
        for label, path in zip(labels, label_paths[part]):
            check_classes(label, path, num_classes)
        yield (images, labels, [label.shape[::-1] for _, label in samples]) if with_sizes else (images, labels)


# ---- The training queue ----------------------------------------------------------------------------------------------

# One step's images uint8 [b, h, w, 3] RGB, labels int32 [b, h, w], image paths string [b].
Batch = NamedTuple('Batch', [('images', object), ('labels', object), ('paths', object)])


class BatchQueue:
    """A tf.FIFOQueue of the default graph, filled with batches by threads, in an order that depends only on the seed.

    Epoch e visits the samples in a permutation drawn from (seed, e), without the remainder that does not fill a batch
    (it differs per epoch); a data set smaller than a batch is repeated to fill it. With groups, [(number of samples,
    share)] in the order of the paths, the group of each place in a batch is drawn by the shares, and a group is
    permuted anew whenever the epoch has used it up. The augmentation of a sample is drawn from (seed, epoch, position).
    So step s is the same for any number of workers and any start_step, and the shards (0, n) to (n - 1, n) of batch
    size b together yield at each step what one queue of batch size n b yields.

    `workers` threads read, augment and resize; one more enqueues, so that at most `capacity` batches wait. About
    cache_bytes of decoded samples are cached. ignore: see `mark_ignored`; `augment` gets labels in which ignored pixels
    are negative. num_classes: see `check_classes`. The queue is on the device of the scope in which the object is made.
    """

    OVERSAMPLING = 1.5   # images are cached at this many times image_shape, so that warps stay sharp

    def __init__(self, image_paths, label_paths, batch_size, image_shape, seed=0, workers=2, capacity=8,
                 augment=road_augmentation.augment, shard=(0, 1), cache_bytes=2 ** 30,
                 ignore=None, groups=None, num_classes=0):
        import tensorflow.compat.v1 as tf   # takes seconds, and find_samples does without
        cv2.setNumThreads(1)   # the workers are the parallelism; OpenCV's threads would compete with TensorFlow's
        self._paths = list(zip(image_paths, label_paths))
        self._groups = groups or [(len(self._paths), 1)]
        self._batch_size, self._image_shape, self._workers = batch_size, tuple(image_shape), workers
        self._seed, self._augment, self._shard, self._ignore = seed, augment, shard, ignore
        self._num_classes = num_classes
        self.steps_per_epoch = max(1, len(self._paths) // (batch_size * shard[1]))
        self._cache, cost = {}, 4 * self.OVERSAMPLING ** 2 * image_shape[0] * image_shape[1]
        self._cache_size = cache_bytes // cost   # samples

        width, height = image_shape
        shapes = [[batch_size, height, width, 3], [batch_size, height, width], [batch_size]]
        types = [tf.uint8, tf.int32, tf.string]
        # Without a name of its own, a queue is shared by all graphs of a server that have a node of its name.
        self._queue = tf.FIFOQueue(capacity, types, shapes, shared_name=f'batches-{uuid.uuid4().hex}')
        self._fed = Batch(*(tf.placeholder(dtype, shape) for dtype, shape in zip(types, shapes)))
        self._enqueue = self._queue.enqueue(self._fed)
        self._close = self._queue.close(cancel_pending_enqueues=True)

    def dequeue(self):
        """-> Batch of tensors: the next step's at each run. Once the queue has stopped, runs raise OutOfRangeError."""
        return Batch(*self._queue.dequeue())

    def start(self, sess, coord, start_step=0):
        """Starts to fill the queue from step start_step on. -> threads, to be joined by coord

        coord: tf.train.Coordinator; its stop ends the threads and closes the queue for good. An exception in a worker,
        such as the InputError that names a file, requests the stop and is raised by coord.join.
        """
        threads = [threading.Thread(target=target, args=(sess, coord, *args), name='queue', daemon=True)
                   for target, *args in ((self._fill, start_step), (self._close_on_stop,))]
        for thread in threads:
            coord.register_thread(thread)
            thread.start()
        return threads

    def _fill(self, sess, coord, start_step):
        with coord.stop_on_exception(), concurrent.futures.ThreadPoolExecutor(self._workers, 'loader') as pool:
            samples = pipeline.in_order(pool, self._load, self._order(start_step), self._batch_size + self._workers)
            with contextlib.closing(samples):   # cancels what has not started
                while not coord.should_stop():
                    images, labels, paths = zip(*(next(samples) for _ in range(self._batch_size)))
                    batch = np.stack(images), np.stack(labels), paths
                    try:
                        sess.run(self._enqueue, dict(zip(self._fed, batch)))
                    except Exception:
                        if not coord.should_stop():   # otherwise the stop cancelled it
                            raise

    def _close_on_stop(self, sess, coord):
        coord.wait_for_stop()
        with contextlib.suppress(Exception):   # the session, and the queue with it, may have ended
            sess.run(self._close)

    def _order(self, start_step):
        """Yields (epoch, position in the epoch, index of the sample) of this shard's samples, without end."""
        epoch, first_step = divmod(start_step, self.steps_per_epoch)
        shard, shards = self._shard
        while True:
            order = self._permute(epoch)
            for step in range(first_step, self.steps_per_epoch):
                first = (step * shards + shard) * self._batch_size
                for position in range(first, first + self._batch_size):
                    yield epoch, position, order[position]
            epoch, first_step = epoch + 1, 0

    def _permute(self, epoch):
        """-> int [positions of an epoch], the index of the sample at each"""
        rng = np.random.default_rng([self._seed, epoch])
        length = self.steps_per_epoch * self._batch_size * self._shard[1]
        counts, shares = zip(*self._groups)
        group = np.zeros(length, int)
        if len(counts) > 1:
            group = rng.choice(len(counts), length, p=np.divide(shares, sum(shares)))
        order, first = np.empty(length, int), 0
        for number, count in enumerate(counts):
            places = np.flatnonzero(group == number)
            rounds = [rng.permutation(count) for _ in range(0, len(places), count)]
            order[places] = first + np.concatenate([*rounds, []])[:len(places)]
            first += count
        return order

    def _load(self, place):
        """place: as from _order. -> (image, label, image path as bytes), ready to be stacked"""
        epoch, position, index = place
        image, label = self._read(index)
        label = mark_ignored(label, self._ignore)
        check_classes(label, self._paths[index][1], self._num_classes)
        if self._augment:
            rng = np.random.default_rng([self._seed, epoch, position])
            image, label = self._augment(image, label, rng, self._image_shape)
        return image, label, os.fsencode(self._paths[index][0])

    def _read(self, index):
        """A sample at the cached size, whether cached or read anew."""
        sample = self._cache.get(index)
        if sample is None:
            image, label = pictures.read_pair(*self._paths[index])
            size = self._image_shape
            if self._augment:   # rotations need the camera's aspect ratio
                height, width = label.shape
                scale = min(1, self.OVERSAMPLING * max(size[0] / width, size[1] / height))
                size = round(width * scale), round(height * scale)
            sample = pictures.resize_image(image, size), pictures.resize_label(label, size)
            if len(self._cache) < self._cache_size:
                self._cache[index] = sample
        return sample
