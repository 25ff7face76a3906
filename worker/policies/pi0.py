"""pi0 and pi0.5 as policies: models that turn noise into a chunk of actions, step by step."""

from typing import TYPE_CHECKING, Any

from worker.config import Architecture
from worker.policies.chunk_policy import ChunkPolicy
from worker.policies.warm_up import camera_sets

if TYPE_CHECKING:
    from worker.runtime.runner import Runner


class Pi0Policy(ChunkPolicy["Runner"]):
    """pi0 and pi0.5."""

    architectures = (Architecture.pi0, Architecture.pi05)

    def warm_up(self) -> float:
        """Also prepare for every batch and prompt that may come."""
        sets = camera_sets(self.transforms.cameras)
        given = [self.transforms.inputs(self._blank(images)) for images in sets]
        # A prompt that holds the state has no usual length.
        usual = None if self._model.discrete_state_input else len(given[-1].tokens)
        self.runner.prepare(self._runtime.slots, [len(g.images) for g in given], usual)
        return super().warm_up()

    def _make_runner(self) -> "Runner":
        from worker.runtime.runner import Runner

        return Runner(
            self._model,
            self._files.weights,
            self._device,
            self._dtype,
            self._runtime,
            self._num_steps,
            self._seed,
        )

    def _deciding_settings(self) -> dict[str, Any]:
        return {**super()._deciding_settings(), "num_steps": self._num_steps, "seed": self._seed}

    def _describe(self) -> dict[str, Any]:
        modes = list(self._runtime.rtc)
        return {**super()._describe(), "num_steps": self._num_steps, "rtc": modes}
