"""Train a network: ``python training/train.py fit --config training/configs/first_student.yaml``.

Any setting can be changed on the command line (``--model.optimizer.learning_rate 1e-3``).
``fit --help`` lists the trainer's, ``fit --model.help training.methods.anyseg.AnySegStudent`` and
``fit --data.help training.data.batches.StreetDataModule`` those of a method and of a data set. ``fit``
continues from the last checkpoint of the run if there is one (``--resume false`` starts anew). A run leaves
its checkpoints, logs and configuration under ``runs/<name>/``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # called as a script: make the repository importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Threads that spin while they wait stall each other when anything else runs: steps of 5 s instead of 0.7.
# Read by the OpenMP runtime as torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from jsonargparse.typing import NonNegativeInt
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from training.data.street import DataSetError
from training.errors import SettingsError
from training.methods.base import SegmentationMethod
from training.models.strict import CheckpointError


class LastCheckpoint(Callback):
    """Keeps ``last.ckpt`` fresh within an epoch and at the end, so that a kill costs few steps.

    Args:
        path: the file.
        every: steps between two.
    """

    def __init__(self, path: Path, every: int) -> None:
        self._path = path
        self._every = every

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        # After an epoch's last step validation comes first: its checkpoint knows which one is best.
        epoch_ends = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if self._every > 0 and trainer.global_step % self._every == 0 and not epoch_ends:
            trainer.save_checkpoint(self._path)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self._path)


class TrainingCLI(LightningCLI):
    """Lightning's command line with this project's run folder."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--name", default="run", help="name of the run: its folder under --runs"
        )
        parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
        parser.add_argument("--resume", type=bool, default=True, help="continue the run if begun")
        parser.add_argument(
            "--save_every", type=int, default=100, help="steps between checkpoints to resume from"
        )
        parser.add_argument(
            "--threads", type=NonNegativeInt, default=0, help="CPU threads; 0: as torch likes"
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        folder = self.run_folder()
        threads = self._get(self.config, "threads")
        if threads:
            torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        # The last checkpoint is what a killed run goes on from; the best is what is shipped.
        checkpoints = ModelCheckpoint(
            folder / "checkpoints",
            filename="best",
            monitor="val/miou_mean",
            mode="max",
            save_last=True,
            enable_version_counter=False,
        )
        given = self._get(self.config_init, "trainer").get("callbacks") or []
        last = LastCheckpoint(
            folder / "checkpoints" / "last.ckpt", self._get(self.config, "save_every")
        )
        kwargs["callbacks"] = [*given, checkpoints, last, LearningRateMonitor("step")]
        kwargs["default_root_dir"] = str(folder)
        kwargs["logger"] = [
            CSVLogger(str(folder), name="log"),  # a version each time it is resumed
            TensorBoardLogger(str(folder), name="", version="tensorboard"),
        ]
        return super().instantiate_trainer(**kwargs)

    def run_folder(self) -> Path:
        """Where this run keeps everything."""
        return Path(self._get(self.config, "runs")) / str(self._get(self.config, "name"))

    def before_fit(self) -> None:
        if bf16_is_emulated(self.trainer):
            print(
                f"note: this CPU ({torch.backends.cpu.get_cpu_capability()}) does not compute in bf16, so "
                f"{self.trainer.precision} is many times slower than --trainer.precision 32-true",
                flush=True,
            )
        settings = self.config_init[self.subcommand]
        settings["weights_only"] = True  # when a run goes on, nothing is unpickled
        last = self.run_folder() / "checkpoints" / "last.ckpt"
        given = self._get(self.config_init, "ckpt_path", None)
        if given is not None or not self._get(self.config, "resume") or not last.is_file():
            return
        stored = torch.load(last, weights_only=True, mmap=True)
        begun, wanted = stored["method"]["name"], type(self.model).__name__
        if begun != wanted:
            raise SettingsError(
                f"{self.run_folder()} holds a run of {begun}, which cannot go on as {wanted}: choose another "
                "--name, or --resume false to begin anew"
            )
        self._check_same_run(stored)
        done = int(stored["global_step"])
        steps = int(self.trainer.max_steps)
        print(f"continuing from {last} at step {done} of {steps}", flush=True)
        if done >= steps:
            print(
                "nothing is left to train: --name begins another run, --resume false this one anew, "
                "a larger --trainer.max_steps goes on",
                flush=True,
            )
        settings["ckpt_path"] = str(last)
        # Lightning cannot know that a batch depends on its step alone, so that none is lost or seen twice.
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable")

    def _check_same_run(self, stored: dict[str, Any]) -> None:
        """Refuse to go on with other data or another network under the name of a run.

        Raises:
            SettingsError: naming what differs.
        """
        config = dataclasses.asdict(self.model.network.config)
        for of, begun, wanted in (
            ("data", stored["data"], self.datamodule.describe()),
            ("network", stored["segmentor"], config),
        ):
            differing = [k for k in begun if k in wanted and _plain(begun[k]) != _plain(wanted[k])]
            if differing:
                said = ", ".join(f"{k} {begun[k]}, now {wanted[k]}" for k in differing)
                raise SettingsError(
                    f"{self.run_folder()} holds a run with other settings of the {of} ({said}): choose "
                    "another --name, or --resume false to begin anew"
                )


def _plain(value: Any) -> Any:
    """The same with tuples as lists: some come out of a checkpoint as such."""
    return json.loads(json.dumps(value, default=str))


def bf16_is_emulated(trainer: Trainer) -> bool:
    """Whether bf16 is asked of an x86 CPU without the instructions that oneDNN needs for it (AVX-512)."""
    return (
        str(trainer.precision).startswith("bf16")
        and trainer.strategy.root_device.type == "cpu"
        and platform.machine() in ("x86_64", "AMD64")
        and not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    )


def main(arguments: list[str] | None = None) -> TrainingCLI:
    """Entry point; ``arguments`` default to those of the command line."""
    return TrainingCLI(
        SegmentationMethod,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        args=arguments,
    )


def _sentence(error: BaseException | None) -> str | None:
    """What is wrong with the user's files or settings, under what the parser made of it."""
    while error is not None:
        if isinstance(error, CheckpointError | DataSetError | SettingsError):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        if (sentence := _sentence(error)) is None:
            raise
        sys.exit(f"train: {sentence}")
