import torch
from torch import nn

from haqnas.graph.layers import LayerKind, list_layers
from haqnas.graph.normalise import normalise
from haqnas.graph.trace import trace


def layers_of(model, *shape):
    return list_layers(normalise(trace(model.eval(), (torch.zeros(1, *shape),))))


def test_kind_macs_and_bytes_of_each_layer():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),  # 8x8 pixels
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),  # 4x4 pixels
        nn.ConvTranspose2d(8, 2, 2, 2),
        nn.Flatten(),
        nn.Linear(128, 5),
    )
    conv, depthwise, transposed, linear = layers_of(model, 4, 8, 8)
    assert [layer.name for layer in (conv, depthwise, transposed, linear)] == ["0", "1", "2", "4"]
    assert (conv.kind, conv.macs, conv.weight_bytes) == (LayerKind.CONV2D, 64 * 8 * 4 * 9, 4 * 8 * 4 * 9)
    assert (depthwise.kind, depthwise.macs) == (LayerKind.DEPTHWISE_CONV2D, 16 * 8 * 9)
    assert (transposed.kind, transposed.macs) == (LayerKind.CONV_TRANSPOSE2D, 16 * 8 * 2 * 4)
    assert (linear.kind, linear.macs, linear.in_shape, linear.out_shape) == (
        LayerKind.LINEAR,
        640,
        (1, 128),
        (1, 5),
    )


def test_linear_over_tokens_counts_each_token():
    (layer,) = layers_of(nn.Linear(6, 4), 5, 6)
    assert layer.macs == 5 * 6 * 4


def test_module_called_twice_is_one_layer_with_two_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(torch.relu(self.conv(x)))

    (layer,) = layers_of(Twice(), 3, 10)
    assert (layer.kind, layer.num_calls, layer.num_weights) == (LayerKind.CONV1D, 2, 27)
    assert layer.macs == 2 * 10 * 27
