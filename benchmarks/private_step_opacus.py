"""The PyTorch contestants of benchmarks/private_step.py: python benchmarks/private_step_opacus.py ENGINE MODEL THREADS.

Run by the Python of a venv with torch and opacus (`uv pip install torch opacus`), which does not have TensorFlow.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from opacus import PrivacyEngine
from private_step_serve import BATCH, L2_NORM_CLIP, LEARNING_RATE, MODELS, NOISE_MULTIPLIER, batch, serve
from torch import nn

# Opacus's way of clipping, None without privacy.
ENGINES = {"PyTorch": None, "Opacus ghost": "ghost", "Opacus hooks": "hooks"}


def module(name: str) -> Any:
    (width, *_), classes = MODELS[name]
    if name == "head":
        return nn.Sequential(nn.Linear(width, classes))
    if name == "mlp":
        hidden = [nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(512, classes))
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, stride=2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(512, 32),
        nn.ReLU(),
        nn.Linear(32, classes),
    )


def build(engine: str, name: str) -> Callable[[], None]:
    features, labels = (torch.from_numpy(part) for part in batch(name))
    if name == "cnn":
        features = features.permute(0, 3, 1, 2).contiguous()
    model = module(name).train()
    optimizer: Any = torch.optim.SGD(model.parameters(), LEARNING_RATE)
    loss: Any = nn.CrossEntropyLoss()
    way = ENGINES[engine]
    if way:
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(features, labels), BATCH)
        parts = PrivacyEngine().make_private(
            module=model,
            optimizer=optimizer,
            criterion=loss,
            data_loader=loader,
            noise_multiplier=NOISE_MULTIPLIER,
            max_grad_norm=L2_NORM_CLIP,
            poisson_sampling=False,
            grad_sample_mode=way,
        )
        model, optimizer = parts[:2]
        loss = parts[2] if way == "ghost" else loss

    def step() -> None:
        optimizer.zero_grad()
        loss(model(features), labels).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(int(sys.argv[3]))
    serve(lambda: build(sys.argv[1], sys.argv[2]))
