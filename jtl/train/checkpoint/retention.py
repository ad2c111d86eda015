"""Retention of a run's checkpoints: which folders exist, which are intact, and which are removed."""

import logging
import math
import re
import shutil
from pathlib import Path
from typing import Any

from jtl.paths import local
from jtl.train.checkpoint import manifest
from jtl.weights.formats.sealed import FROZEN

log = logging.getLogger("jtl.checkpoint")


class Retention:
    """A directory of folders `step_00000040`, each a checkpoint once it has a manifest.

    Next to them are folders `frozen_…`, each with frozen parameters that the steps which name it share.

    Args:
      directory: the directory, which need not exist yet.
      keep: how many of the newest checkpoints to keep, in addition to the best.

    Raises:
      ValueError: for a directory that is itself one checkpoint or the address of a bucket, or `keep` below 1.
    """

    def __init__(self, directory: str | Path, keep: int):
        self.directory, self.keep = local(directory, "directory").absolute(), keep
        self._damaged: set[int] = set()
        self._unreadable: dict[int, manifest.Damaged] = {}  # intact by their checksums
        self._verified: set[str] = set()  # frozen folders that this process wrote, or read in full
        self._stamps: dict[Path, Any] = {}  # stamps of folders that were read in full since the last save
        if keep < 1:
            raise ValueError(f"keep={keep}: at least the newest checkpoint is kept")
        if _step_of(self.directory) is not None:
            raise ValueError(f"{self.directory} is one checkpoint; give the one that holds it: {self.directory.parent}")

    def path(self, step: int) -> Path:
        """The folder of a step."""
        return self.directory / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """The steps of all finished checkpoints, in order."""
        found = (_step_of(path.parent) for path in self.directory.glob(f"step_*/{manifest.NAME}"))
        return sorted(step for step in found if step is not None)

    def ranked(self) -> list[int]:
        """The steps that have a score, the highest score first; of equal scores the earlier step first."""
        scores: dict[int, float] = {}
        for step in self.steps():
            if step not in self._damaged:
                try:
                    score = manifest.read(self.path(step))["score"]
                except manifest.Damaged as damage:
                    self._report(step, damage)
                else:
                    scores |= {} if score is None or math.isnan(score) else {step: score}
        return sorted(scores, key=lambda step: (-scores[step], step))

    def clear(self, step: int) -> None:
        """Makes an empty folder for a step, in place of the remains of a killed save or of a damaged checkpoint."""
        _emptied(self.path(step))
        self._damaged.discard(step)
        self._unreadable.pop(step, None)

    def holds(self, name: str) -> bool:
        """Whether a frozen folder exists and is intact; if not, an empty one is made in its place."""
        folder = self.directory / name
        if name in self._verified and (folder / manifest.NAME).is_file():
            return True
        if (folder / manifest.NAME).is_file():
            try:
                manifest.verify(folder)
            except manifest.Damaged as damage:
                log.warning("%s is damaged and written again: %s", folder, damage)
            else:
                self._verified.add(name)
                return True
        _emptied(folder)
        return False

    def seal_frozen(self, name: str, content: dict[str, Any]) -> None:
        """Seals a frozen folder."""
        manifest.write(self.directory / name, content)
        self._verified.add(name)

    def frozen(self, about: dict[str, Any]) -> dict[str, Any]:
        """The manifest of the frozen folder that a step's manifest names; one without leaves if it names none."""
        name = about.get("frozen")
        return {"leaves": {}} if name is None else manifest.read(self.directory / name)

    def seal(self, step: int, content: dict[str, Any]) -> None:
        """Seals a folder, and removes those that are neither among the newest nor the best.

        Damaged ones were reported and stay, but do not take the place of a good one. A frozen folder is removed with
        the last step that names it.
        """
        manifest.write(self.path(step), content)
        self._stamps.clear()  # disks lose data silently, so a long run reads all files again
        intact = [step for step in self.steps() if step not in self._damaged]
        kept = {step, *intact[-self.keep :], *self.ranked()[:1], *self._damaged}
        for folder in self.directory.glob("step_*"):
            old = _step_of(folder)
            if old is not None and old not in kept:
                _removed(folder)
        self._prune_frozen()

    def _prune_frozen(self) -> None:
        try:
            named = {manifest.read(self.path(step)).get("frozen") for step in self.steps()}
        except manifest.Damaged:  # it may name any frozen folder, so all stay
            return
        for folder in self.directory.glob("frozen_*"):
            if FROZEN.fullmatch(folder.name) and folder.name not in named:
                self._verified.discard(folder.name)
                _removed(folder)

    def intact(self, wanted: int | str) -> int:
        """The newest or the best step whose files are those that were written, or a given step, verified.

        Raises:
          FileNotFoundError: if there is none.
          manifest.Damaged: if a given step is damaged.
        """
        steps = self.steps()
        if not steps:
            missing = "" if self.directory.is_dir() else ", which does not exist"
            raise FileNotFoundError(f"no checkpoint in {self.directory}{missing}")
        if isinstance(wanted, int):
            if wanted not in steps:
                raise FileNotFoundError(f"no checkpoint of step {wanted} in {self.directory}; there are {steps}")
            self._verify(wanted)
            return wanted
        candidates = {"newest": steps[::-1], "best": self.ranked()}[wanted]
        damages = []
        for step in candidates:
            if step in self._unreadable:
                damages.append(self._unreadable[step])
                continue
            try:
                self._verify(step)
            except manifest.Damaged as damage:
                self._report(step, damage)
                damages.append(damage)
            else:
                return step
        what = f"those of steps {steps} have no score"
        if not candidates and self._unreadable:
            what = f"those that have a score cannot be read: {next(iter(self._unreadable.values()))}"
        if candidates:
            what = f"all of steps {candidates} are damaged: {damages[0]}"
        raise FileNotFoundError(f"no {wanted} checkpoint in {self.directory}: {what}")

    def unreadable(self, step: int, damage: manifest.Damaged) -> None:
        """Reports a step that is intact but cannot be read; `intact` skips it from now on."""
        self._unreadable[step] = damage
        self._report(step, damage)

    def _verify(self, step: int) -> None:
        """Reads every file of a step, and of the frozen folder that it names."""
        name = self._whole(self.path(step)).get("frozen")
        if name is not None:
            self._verified.discard(name)
            self._whole(self.directory / name)
            self._verified.add(name)

    def _whole(self, folder: Path) -> dict[str, Any]:
        """The manifest of a folder, after verifying its files; files that were not touched since are not read again."""
        now = manifest.stamp(folder)
        if now is not None and self._stamps.get(folder) == now:
            return manifest.read(folder)
        about = manifest.verify(folder)
        self._stamps[folder] = now
        return about

    def _report(self, step: int, damage: Exception) -> None:
        self._damaged.add(step)
        log.warning("checkpoint %s is damaged and not used: %s", self.path(step), damage)


def _step_of(folder: Path) -> int | None:
    found = re.fullmatch(r"step_(\d{8,})", folder.name)
    return int(found[1]) if found else None


def _emptied(folder: Path) -> None:
    _removed(folder)
    folder.mkdir(parents=True)


def _removed(folder: Path) -> None:
    if folder.is_dir():
        (folder / manifest.NAME).unlink(missing_ok=True)  # first, so that a half-removed folder does not count
        shutil.rmtree(folder)
