"""From a model file to a canonical torch.fx graph, and the integer operators of the `haqnas::` namespace."""
