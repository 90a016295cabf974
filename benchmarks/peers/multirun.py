"""What most people write: a Hydra multirun, each job a Lightning Trainer with its defaults on digits."""

import logging
import warnings
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.001),
    "adam": lambda p: torch.optim.Adam(p, lr=0.001),
}
ConfigStore.instance().store("multirun", {"optimizer": "adam", "seed": 0, "steps": 480})


class Classifier(pl.LightningModule):
    """The LightningModule of a tutorial."""

    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = functional.cross_entropy(self.model(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        output = self.model(batch[0])
        self.log("val_loss", functional.cross_entropy(output, batch[1]))
        self.log("val_accuracy", (output.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = OPTIMIZERS[self.optimizer](self.parameters())
        return optimizer


@hydra.main(version_base="1.3", config_path=None, config_name="multirun")
def main(config: DictConfig) -> None:
    """Train one seed of one learner."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pl.seed_everything(config.seed, verbose=False)
    x, y = load_digits(return_X_y=True)
    splits = train_test_split(torch.tensor(x / 16.0, dtype=torch.float32), torch.tensor(y), test_size=0.5)
    train, validation = TensorDataset(splits[0], splits[2]), TensorDataset(splits[1], splits[3])
    trainer = pl.Trainer(
        max_steps=config.steps, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False
    )
    loaders = DataLoader(train, batch_size=64, shuffle=True), DataLoader(validation, batch_size=256)
    trainer.fit(Classifier(config.optimizer), *loaders)


if __name__ == "__main__":
    main()
