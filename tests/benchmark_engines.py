"""Times ENet in another runtime, in a process without TensorFlow; benchmark.py calls it.

    python tests/benchmark_engines.py NAME FOLDER RUNS

FOLDER holds `model`, exported by inference.py, and `inputs`, the pickled arguments. Prints the median in ms.
"""
import os
import pickle
import subprocess
import sys
import types

import numpy as np

TESTS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(TESTS), TESTS]

import reference
from benchmark_clustering import in_turn


def torch_network(inputs, model):
    run = reference.torch_enet(inputs.weights)
    return lambda: run(inputs.images[:1])


def openvino_network(inputs, model):
    import openvino
    compiled = openvino.compile_model(openvino.convert_model(model), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    return lambda: compiled(np.float32(inputs.images[:1]))


def onnx_network(inputs, model):
    import onnxruntime
    shape = ','.join(map(str, inputs.images[:1].shape))
    subprocess.run([sys.executable, '-m', 'tf2onnx.convert', '--saved-model', model, '--output', model + '.onnx',
                    '--opset', '17', '--inputs', f'image:0[{shape}]'], check=True, capture_output=True)
    session = onnxruntime.InferenceSession(model + '.onnx')
    return lambda: session.run(None, {'image:0': np.float32(inputs.images[:1])})


def torch_step(inputs, model):
    """As in training.py: batch statistics, dropout, discriminative loss, weight decay, clipping, Adam."""
    import torch
    from torch.nn import functional
    tensors = {name.removeprefix('ENet/'): torch.from_numpy(value) for name, value in inputs.weights.items()}
    for name, tensor in tensors.items():
        if tensor.ndim == 4:   # [h, w, in, out], of transposed convolutions [h, w, out, in]
            tensors[name] = tensor.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    tensors['head'] = torch.normal(0, 0.1, [16, 3, 2, 2])
    trained = [tensor.requires_grad_() for name, tensor in tensors.items()
               if 'moving_' not in name and 'fullconv' not in name]
    optimizer = torch.optim.Adam(trained, 5e-4, fused=True)
    images, labels = torch.from_numpy(inputs.images), torch.from_numpy(inputs.labels)
    operations = reference.torch_operations(tensors)
    operations.dropout = lambda x, rate, name: functional.dropout2d(x, rate)
    operations.norm = lambda x, name: functional.batch_norm(
        x, None, None, None, tensors[name + '/beta'], training=True, eps=0.001)

    def step():
        features = reference.layers(images.permute(0, 3, 1, 2).float() / 127.5 - 1, operations)
        total = torch_loss(functional.conv_transpose2d(features, tensors['head'], stride=2), labels)
        total += 1e-4 * sum(tensor.square().sum() for tensor in trained if tensor.ndim == 4)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained, 5.)
        optimizer.step()
    return step


def torch_loss(embedding, labels):
    """The discriminative loss. embedding: [b, c, h, w]; labels: int32 [b, h, w], every image with ids 0, 1, 2, ..."""
    import torch
    b, c = embedding.shape[:2]
    num_ids = int(labels.max()) + 1
    ids = (labels.flatten(1).long() + num_ids * torch.arange(b)[:, None]).flatten()
    x = embedding.permute(0, 2, 3, 1).reshape(-1, c)
    counts = torch.bincount(ids)
    means = x.new_zeros(b * num_ids, c).index_add(0, ids, x) / counts[:, None]
    pulls = torch.relu((x - means.index_select(0, ids)).norm(dim=1) - 0.5).square()
    l_var = (x.new_zeros(b * num_ids).index_add(0, ids, pulls) / counts).mean()
    apart = torch.stack([torch.nn.functional.pdist(each) for each in means.view(b, num_ids, c)])
    return l_var + torch.relu(3 - apart).square().mean() + means.norm(dim=1).mean()


# The modules that each needs, and a function of the inputs and the path of the model that returns the timed one.
ENGINES = {'PyTorch': (('torch',), torch_network), 'OpenVINO': (('openvino',), openvino_network),
           'ONNX Runtime': (('onnxruntime', 'tf2onnx'), onnx_network), 'PyTorch, a step': (('torch',), torch_step)}

if __name__ == '__main__':
    _, engine, folder, runs = sys.argv
    with open(os.path.join(folder, 'inputs'), 'rb') as file:
        inputs = pickle.load(file)
    sys.modules['enet'] = types.SimpleNamespace(PAPER=inputs.architecture)   # the real one imports TensorFlow
    print(*in_turn([ENGINES[engine][1](inputs, os.path.join(folder, 'model'))], int(runs), warm_up=2))
