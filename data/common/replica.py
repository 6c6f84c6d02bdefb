"""The processes of a run: a single one, or a cluster of a chief and workers.

The chief holds the variables. In each step, every worker computes the gradient for its images and submits it to its own
accumulator on the chief; the chief takes one gradient from each, applies the mean and increments the global step, for
which the workers wait. Variables change only in a session.run of the chief, never while it saves or validates.

A restarted worker repeats its step with the same images and dropout: submitted twice, its gradient counts as the mean
of two equal ones; submitted late, it is stale and dropped. When the chief is restarted, the workers rejoin it.
"""
import contextlib
import threading
import time

import tensorflow.compat.v1 as tf

from data.common.command_line import InputError

CHIEF = '/job:chief/task:0'
GONE = (tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError, tf.errors.NotFoundError, tf.errors.UnavailableError)
POLL = 0.005      # seconds between a worker's checks whether its step was taken
RETRY = 0.5       # seconds between attempts to reach the chief, and between its checks at the end
TIMEOUT = 5000    # ms to wait for an answer of a chief that may be down
LINGER = 30.      # seconds that the chief waits for its workers at the end, at most


class Replica:
    """This process of a run: the only one, or the chief or a worker of a cluster.

    addresses: 'host:port' of the chief and the workers, of which this process is number `index`; empty without a
    cluster. Raises InputError if it cannot listen on its address.
    """

    gone = GONE   # raised by a session when the chief has ended

    def __init__(self, addresses=(), index=0):
        self.index, self.count = index, max(1, len(addresses))
        self.is_chief, self.name = index == 0, f'worker {index - 1}' if index else 'chief'
        self._device, self._server = None, None
        if self.count > 1:
            job, task = ('worker', index - 1) if index else ('chief', 0)
            self._device = f'/job:{job}/task:{task}'
            try:
                self._server = tf.train.Server({'chief': addresses[:1], 'worker': addresses[1:]}, job, task)
            except tf.errors.OpError:
                raise InputError(f'TF_CONFIG: {self.name} cannot listen on {addresses[index]}; is that a free address '
                                 'of this machine?')

    @contextlib.contextmanager
    def session(self, timeout_ms=0):
        """While active, a tf.Session of the default graph that depends only on this process and the chief."""
        if not self._server:
            with tf.Session() as sess:
                yield sess
            return
        filters = sorted({'/job:chief', self._device})
        config = tf.ConfigProto(device_filters=filters, operation_timeout_in_ms=timeout_ms)
        sess = tf.Session(self._server.target, config=config)
        try:
            with sess.as_default():
                yield sess
        finally:
            closing = threading.Thread(target=sess.close, daemon=True)
            closing.start()
            closing.join(1.)   # otherwise it waits half a minute for a chief that is gone

    def placement(self):
        """-> a context for building the graph: variables on the chief, everything else here"""
        if not self._server:
            return contextlib.nullcontext()
        return tf.device(tf.train.replica_device_setter(1, '/job:chief', self._device))

    def mean(self, tensors, step):
        """The means of float32 tensors of known shapes over all processes. step: the global step.

        -> list of tensors on the chief; [] on a worker, whose own tensors `take_step` submits
        """
        if self.count == 1:
            return tensors
        sizes = [tensor.shape.num_elements() for tensor in tensors]
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
        with tf.device(CHIEF + '/cpu:0'):
            parts = [tf.ConditionalAccumulator(tf.float32, flat.shape, shared_name=f'gradient_{i}')
                     for i in range(1, self.count)]
            if not self.is_chief:
                self._at_step = tf.placeholder(tf.int64, [], name='at_step')
                self._hand_in = parts[self.index - 1].apply_grad(flat, self._at_step)
                return []
            with tf.control_dependencies([part.set_global_step(step) for part in parts]):
                flat = tf.add_n([flat, *(part.take_grad(1) for part in parts)]) / self.count
        return [tf.reshape(part, tensor.shape) for part, tensor in zip(tf.split(flat, sizes), tensors)]

    def take_step(self, sess, step, fetches, train_op):
        """Takes a step together with the others. -> the values of fetches. train_op: the chief's update."""
        if self.is_chief:
            return sess.run([fetches, train_op])[0]
        values, _ = sess.run([fetches, self._hand_in], {self._at_step: step})
        global_step = tf.train.get_global_step(sess.graph)
        while sess.run(global_step) <= step:
            time.sleep(POLL)
        return values

    def announce(self, text):
        """Called by the chief once the variables have their values. text: for the workers, see `join`"""
        if self.count > 1:
            with tf.Graph().as_default(), self.session() as sess:
                sess.run(tf.assign(_on_chief('announcement', tf.string), text))

    def join(self):
        """A worker waits for the chief's announcement. -> its text"""
        while True:
            with contextlib.suppress(*GONE), tf.Graph().as_default(), self.session(TIMEOUT) as sess:
                announcement = _on_chief('announcement', tf.string)
                if sess.run(tf.is_variable_initialized(announcement)):
                    return sess.run(announcement).decode()
            time.sleep(RETRY)

    def leave(self):
        """At the end, each worker reports to the chief, which waits for these reports, but at most LINGER seconds."""
        if self.count > 1:
            with contextlib.suppress(*GONE), tf.Graph().as_default(), self.session() as sess:
                with tf.device(CHIEF + '/cpu:0'):
                    left = tf.FIFOQueue(-1, tf.int64, [()], shared_name='left')
                    enqueue, size = left.enqueue(self.index), left.size()
                if not self.is_chief:
                    sess.run(enqueue)
                until = time.monotonic() + LINGER
                while self.is_chief and sess.run(size) < self.count - 1 and time.monotonic() < until:
                    time.sleep(RETRY)


def _on_chief(name, dtype):
    """-> a scalar variable on the chief that is not in checkpoints"""
    with tf.device(CHIEF + '/cpu:0'):
        return tf.get_variable(name, [], dtype, trainable=False, use_resource=False, collections=['cluster'])
