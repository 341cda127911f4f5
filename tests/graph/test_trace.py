import pytest
import torch
from torch import nn
from torch.nn import functional

from haqnas.errors import ConfigurationError, UnsupportedModelError
from haqnas.graph.trace import trace

X = torch.zeros(1, 3, 8, 8)


class Function(nn.Module):
    """A model of one function, with a convolution's weights."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(3, 3, 1)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, *inputs):
        return self.function(self, *inputs)


def branch_on_values(self, x):
    if x.sum() > 0:  # the branch
        return self.conv(x)
    return x


def item(self, x):
    return x * int(x.max().item())


def loop_over_values(self, x):
    while bool(x.abs().max() > 1):
        x = x / 2
    return x


def boolean_index(self, x):
    return x[x > 0]


def to_numpy(self, x):
    return torch.from_numpy(x.numpy() + 1)


def keep_state(self, x):
    self.count += 1
    return x * self.count


def none_output(self, x):
    return self.conv(x), None


def number_output(self, x):
    return self.conv(x), 3


def index_output(self, x):
    return self.conv(x).argmax(1)


def no_output(self, x):
    return ()


def active_dropout(self, x):
    return functional.dropout(x, 0.5)


def random_noise(self, x):
    return x + torch.randn_like(x)


def conditional(self, x):
    return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


@pytest.mark.parametrize(
    ("function", "source", "advice"),
    [
        (branch_on_values, "if x.sum() > 0:", "torch.where"),
        (item, "x.max().item()", "torch.where"),
        (loop_over_values, "while bool(x.abs().max() > 1):", "torch.where"),
        (boolean_index, "return self.function(self, *inputs)", "torch.where"),
        (to_numpy, "x.numpy()", "numpy"),
        (keep_state, "'count'", "an input and an output"),
        (none_output, "None", "Return a tensor"),
        (number_output, "3", "Return a tensor"),
        (index_output, "argmax", "argmax"),
        (no_output, "returns none", "at least one tensor"),
        (active_dropout, "return self.function(self, *inputs)", "training=self.training"),
        (random_noise, "randn_like", "an input of the model"),
        (conditional, "return self.function(self, *inputs)", "torch.where"),
    ],
)
def test_untraceable_model_is_named_with_line_and_way_out(function, source, advice):
    with pytest.raises(UnsupportedModelError) as caught:
        trace(Function(function), (X,))
    message = str(caught.value)
    assert source in message
    assert advice in message
    if function not in (keep_state, none_output, number_output, no_output):
        assert "test_trace.py:" in message


def test_line_of_the_branch_is_exact():
    with pytest.raises(UnsupportedModelError) as caught:
        trace(Function(branch_on_values), (X,))
    line = branch_on_values.__code__.co_firstlineno + 1
    assert f"{__file__}:{line}: if x.sum() > 0:" in str(caught.value)


def test_nothing_is_printed_on_failure(capfd):
    with pytest.raises(UnsupportedModelError):
        trace(Function(branch_on_values), (X,))
    assert capfd.readouterr() == ("", "")


def test_control_flow_over_shapes_and_settings_is_traced():
    def over_shapes(self, x):
        for index in range(x.shape[1] - 1):
            x = self.conv(x) if x.size(2) > 4 and not self.training else x * index
        return x

    graph = trace(Function(over_shapes), (X,))
    assert sum(node.target is torch.ops.aten.conv2d.default for node in graph.graph.nodes) == 2


def test_in_place_operators_become_functional():
    def in_place(self, x):
        y = self.conv(x)
        z = y.clone()
        z[:, 0] = 0
        y += 1
        y.relu_()
        y[:, 1:].mul_(2)
        return y + z

    model, x = Function(in_place), torch.randn(1, 3, 8, 8)
    graph = trace(model, (x,))
    for node in graph.graph.nodes:
        assert (
            node.op != "call_function"
            or not getattr(node.target, "_schema", None)
            or not node.target._schema.is_mutable
        )
    torch.testing.assert_close(graph(x)[0], model(x))


def test_changed_input_is_not_an_output():
    def change_input(self, x):
        x += 1
        return self.conv(x)

    model = Function(change_input)
    graph = trace(model, (X,))
    assert len(graph(X)) == 1
    torch.testing.assert_close(graph(X)[0], model(X.clone()))


def test_nested_outputs_are_flattened_in_order():
    def nested(self, x):
        return {"b": x + 1, "a": [x + 2, (x + 3,)]}

    outputs = trace(Function(nested), (X,))(X)
    assert [float(output.max()) for output in outputs] == [1.0, 2.0, 3.0]


def test_several_inputs_keep_their_order():
    graph = trace(Function(lambda self, a, b: a - b.mean((2, 3))), (torch.zeros(1, 3), X))
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    assert [tuple(node.meta["val"].shape) for node in placeholders] == [(1, 3), (1, 3, 8, 8)]


def test_unused_input_stays():
    graph = trace(Function(lambda self, a, b: self.conv(b)), (X, X))
    assert sum(node.op == "placeholder" for node in graph.graph.nodes) == 2


def test_no_grad_inside_forward_is_traced():
    def without_grad(self, x):
        with torch.no_grad():
            x = self.conv(x)
        return x + 1

    model = Function(without_grad)
    torch.testing.assert_close(trace(model, (X,))(X)[0], model(X))


def test_model_is_unchanged_and_shares_nothing_with_the_graph():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = trace(model, (X,))
    assert model.training
    with torch.no_grad():
        for value in (*graph.parameters(), *graph.buffers()):
            value.fill_(7)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_wrong_example_shape_is_a_mistake_of_the_inputs():
    with pytest.raises(ConfigurationError, match=r"must run on its example inputs.*\(1, 5, 8, 8\)"):
        trace(Function(lambda self, x: self.conv(x)), (torch.zeros(1, 5, 8, 8),))


def test_nodes_keep_shape_and_source_line():
    graph = trace(Function(lambda self, x: self.conv(x).relu()), (X,))
    relu = next(node for node in graph.graph.nodes if node.target is torch.ops.aten.relu.default)
    assert tuple(relu.meta["val"].shape) == (1, 3, 8, 8)
    assert __file__ in relu.meta["stack_trace"]
