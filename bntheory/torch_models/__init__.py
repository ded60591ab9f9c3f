"""Reading back: a torch module, traced once, becomes a description whose growth is predicted."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError('torch modules need PyTorch: pip install "bntheory[train]"') from None
