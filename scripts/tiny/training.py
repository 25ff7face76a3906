"""One training: steps, a moving average of the weights, saved states, and the export."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.tiny.curve import draw
from scripts.tiny.dataset import BATCH, Dataset, Frames
from scripts.tiny.learner import PLACE_WEIGHT, Batch, Learner, export_names
from scripts.tiny.scene import TASKS
from worker.checkpoints.files import EMBEDDED, TOKENIZER_NAMES
from worker.checkpoints.layout import WEIGHTS_FILE
from worker.config import ModelConfig
from worker.models.attention import cpu_has_amx
from worker.robots.tokenizers import PromptTokenizer

LEARNING_RATE = 1e-3
PLACES_LEARN_FASTER = 10.0
"""The auxiliary head's learning rate, as a multiple of the others'."""
WARM_UP_STEPS = 50
EMA = 0.998
CLIP = 1.0
STATE_NOISE = 0.03
LARGEST_GAIN = 0.1
"""Pictures are made up to so much darker or brighter."""
WRONG_PROMPT_EVERY = 15
"""Steps: then each task's frames come with the other task's prompt, and the arms go to rest."""
SEEING_STEPS = 600
"""At the beginning: the vision tower alone learns where objects lie, at a fifth of the cost."""
EARLY = 100
"""Control steps in which nothing but the picture tells where the objects are."""
SAVE_EVERY = 100

Losses = dict[str, list[float]]


class Training:
    """A learner, its optimizer, and how far the training has come."""

    def __init__(
        self,
        config: ModelConfig,
        data: Dataset,
        steps: int,
        output: Path,
        seeing_steps: int = SEEING_STEPS,
        save_every: int = SAVE_EVERY,
        batch: int = BATCH,
        learning_rate: float = LEARNING_RATE,
        threads: int = 1,
    ) -> None:
        """Begin, or continue from `output/training.pt` if it exists.

        `batch`: frames of each task in a step; `learning_rate`: the largest; `threads`: shared by
        the tasks, each of which computes beside the others if there are enough.
        """
        beside = min(threads, len(data.frames))
        self._pool = ThreadPoolExecutor(
            beside, initializer=_share_cores, initargs=(threads, beside)
        )
        self._learning_rate = learning_rate
        self._data, self._steps, self._output = data, steps, output
        self._seeing_steps, self._save_every, self._batch = seeing_steps, save_every, batch
        torch.manual_seed(0)
        some = [torch.from_numpy(frames.images[::101]) for frames in data.frames]
        # As it will be served, and faster where the CPU has AMX; with AVX512-BF16 alone it takes a
        # third more time than float32 does. Steps are too small for bfloat16, so the optimizer has
        # float32 weights of its own.
        dtype = torch.bfloat16 if cpu_has_amx() else torch.float32
        self.learner = Learner(config, torch.cat(some), dtype)
        self._prepare()
        self._computing = [p for p in self.learner.parameters() if p.requires_grad]
        self._parameters = [p.detach().float().clone() for p in self._computing]
        self._average = [p.clone() for p in self._parameters]
        heads = list(self.learner.places.parameters())
        speeds: dict[float, list[Tensor]] = {1.0: [], PLACES_LEARN_FASTER: []}
        for ours, theirs in zip(self._parameters, self._computing, strict=True):
            is_head = any(theirs is each for each in heads)
            speeds[PLACES_LEARN_FASTER if is_head else 1.0].append(ours)
        self._optimizer = torch.optim.AdamW(
            [{"params": params, "speed": speed} for speed, params in speeds.items() if params],
            learning_rate,
            weight_decay=0.01,
        )
        tokenizer = PromptTokenizer(EMBEDDED / TOKENIZER_NAMES[0], config.max_token_len)
        self._prompts = {
            name: torch.from_numpy(tokenizer.encode(task.prompt).tokens)
            for name, task in TASKS.items()
        }
        self.step = 0
        self.losses: Losses = {"flow": [], "place_mm": []}
        output.mkdir(parents=True, exist_ok=True)
        self._state = output / "training.pt"
        if self._state.exists():
            self._resume()

    def advance(self) -> str:
        """Do one step; returns the losses in a few words."""
        is_seeing = self.step < self._seeing_steps
        is_wrong = not is_seeing and self.step % WRONG_PROMPT_EVERY == 0
        learn = partial(self._learn, is_seeing=is_seeing, is_wrong=is_wrong)
        tasks = range(len(self._data.frames))
        losses = np.mean(list(self._pool.map(learn, tasks)), axis=0)
        self._update()
        if not is_wrong:
            self.losses["place_mm"].append(float(losses[1]))
        if not is_wrong and not is_seeing:
            self.losses["flow"].append(float(losses[0]))
        self.step += 1
        if self.step % self._save_every == 0 or self.step == self._steps:
            self._save()
        recent = {name: np.mean(values[-50:] or 0.0) for name, values in self.losses.items()}
        return f"loss {recent['flow']:.3f}, places within {recent['place_mm']:.1f} mm"

    def _learn(self, task: int, is_seeing: bool, is_wrong: bool) -> tuple[float, float]:
        """Add one task's gradient; returns its losses of flow and, in millimetres, of places.

        Of two tasks, either may be the first to add: the sum is the same to the last bit.
        """
        frames = self._data.frames[task]
        # Seeded by step and task alone, so that a resumed training draws what it would have drawn.
        random = np.random.default_rng([task, self.step])
        generator = torch.Generator().manual_seed(len(self._data.frames) * self.step + task)
        chosen = self._choose(frames, is_seeing, random)
        batch = self._draw(frames, chosen, is_wrong, random)
        if is_seeing:
            flow, place = torch.zeros(()), self.learner.look(batch)
        else:
            flow, place = self._act(frames, chosen, batch, is_wrong, generator)
        loss: Tensor = (flow + PLACE_WEIGHT * place) / len(self._data.frames)
        torch.autograd.backward(loss)
        return flow.item(), 100.0 * place.item()

    def export(self, asset_id: str) -> None:
        """Write the averaged weights, statistics and tokenizer in the public layout."""
        weights = self._averaged()
        tensors = {
            theirs: weights[f"model.{ours}"].to(torch.bfloat16).contiguous()
            for ours, theirs in export_names(self.learner.model).items()
        }
        safetensors.torch.save_file(tensors, self._output / WEIGHTS_FILE)
        assets = self._output / "assets" / asset_id
        assets.mkdir(parents=True, exist_ok=True)
        (assets / "norm_stats.json").write_text(self._data.norm_stats())
        name = TOKENIZER_NAMES[0]
        (self._output / name).write_bytes((EMBEDDED / name).read_bytes())
        (self._output / "losses.json").write_text(json.dumps(self.losses))
        draw(self._output / "loss.png", self.losses)

    def _prepare(self) -> None:
        """Change the learner before anything else looks at its parameters."""

    def _act(
        self,
        frames: Frames,
        chosen: NDArray[np.int64],
        batch: Batch,
        is_wrong: bool,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Losses of flow and places for `batch`, which is of the `chosen` of `frames`."""
        flow, place = self.learner(batch, generator)
        return flow, place

    def _choose(
        self, frames: Frames, is_seeing: bool, random: np.random.Generator
    ) -> NDArray[np.int64]:
        chosen = random.integers(len(frames), size=self._batch)
        if is_seeing:
            early = np.flatnonzero(frames.steps < EARLY)
            most = 3 * self._batch // 4
            chosen[:most] = random.choice(early, most)
        return chosen

    def _draw(
        self,
        frames: Frames,
        chosen: NDArray[np.int64],
        is_wrong: bool,
        random: np.random.Generator,
    ) -> Batch:
        count = len(chosen)
        state = frames.states[chosen] + STATE_NOISE * random.standard_normal((count, 14))
        name = frames.task.name
        asked = next(other for other in TASKS if other != name) if is_wrong else name
        chunks = frames.returns if is_wrong else frames.chunks
        return Batch(
            torch.from_numpy(brightened(frames.images[chosen], random)),
            self._prompts[asked].expand(count, -1),
            torch.from_numpy(state.astype(np.float32)),
            torch.from_numpy(chunks[chosen]),
            torch.from_numpy(frames.objects[chosen]),
            name,
        )

    def _update(self) -> None:
        """Clip, step and average."""
        for ours, theirs in zip(self._parameters, self._computing, strict=True):
            ours.grad = None if theirs.grad is None else theirs.grad.float()
            theirs.grad = None
        torch.nn.utils.clip_grad_norm_(self._parameters, CLIP)
        rate = self._rate()
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["speed"]
        self._optimizer.step()
        self._optimizer.zero_grad()
        # Young averages forget faster, or the made-up weights of the beginning would stay in them.
        acting = max(0, self.step - self._seeing_steps)
        keep = min(EMA, (1 + acting) / (10 + acting))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._parameters, 1.0 - keep)
            torch._foreach_copy_(list[Tensor](self._computing), self._parameters)

    def _rate(self) -> float:
        """A cosine after a short warm-up; one for seeing and one for acting."""
        if self.step < self._seeing_steps:
            done, of = self.step, self._seeing_steps
        else:
            done, of = self.step - self._seeing_steps, self._steps - self._seeing_steps
        falling = 0.5 * (1.0 + math.cos(math.pi * done / of))
        return self._learning_rate * min(1.0, (done + 1) / WARM_UP_STEPS) * max(falling, 0.01)

    def _averaged(self) -> dict[str, Tensor]:
        """All weights, by their names; those that do not learn as they are."""
        averages = iter(self._average)
        return {
            name: next(averages) if p.requires_grad else p.detach()
            for name, p in self.learner.named_parameters()
        }

    def _save(self) -> None:
        unfinished = self._state.with_suffix(".unfinished")
        torch.save(
            {
                "step": self.step,
                "learner": self.learner.state_dict(),
                "parameters": self._parameters,
                "average": self._average,
                "optimizer": self._optimizer.state_dict(),
                "losses": self.losses,
            },
            unfinished,
        )
        unfinished.rename(self._state)

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self._state, weights_only=True)
        self.step, self.losses = state["step"], state["losses"]
        self.learner.load_state_dict(state["learner"])
        torch._foreach_copy_(self._parameters, state["parameters"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average = state["average"]


def _share_cores(threads: int, tasks: int) -> None:
    """So many for a thread of the pool's, as torch keeps the number for each thread."""
    torch.set_num_threads(threads // tasks)


def brightened(images: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """`images` (n, height, width, 3), each made darker or brighter by a gain of its own."""
    gains = 1.0 + LARGEST_GAIN * random.uniform(-1.0, 1.0, (len(images), 1))
    bright = np.clip(gains * np.arange(256), 0, 255).astype(np.uint8)
    return np.stack([b[i] for b, i in zip(bright, images, strict=True)])
