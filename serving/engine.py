"""One base, many people: draws batches whose rows belong to different people.

Single-threaded and without a queue; `serving.local` puts one in front. Judges nothing: what leaves
here has not been looked at. Knows no users, styles or storage.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL.Image import Image

from diffusion.conditioning import PromptEmbeds, decode_pixels, encode_prompt, pictures
from diffusion.load import Parts, load_parts
from diffusion.memory import is_out_of_memory
from diffusion.sampling import (
    DEFAULTS,
    MAX_STEPS,
    Row,
    Schedule,
    sample,
    schedule_for,
)
from serving.adapter import ServedBase
from serving.bank import Bank, Wanted
from serving.errors import EngineError, NotFinite, OutOfMemory, RequestRefused
from serving.request import GenerationRequest

MAX_PROMPT_CHARS = 2000
MAX_SIDE = {"starter": 512, "sd15": 1024, "sd21": 1024, "sdxl": 2048}
MAX_GUIDANCE = 30.0
MAX_STRENGTH = 2.0
ZERO_SNR_RESCALE = 0.7  # arXiv 2305.08891 section 3.4, for guidance above what zero-SNR bases bear
RESCALE_ABOVE = 5.0

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A checked request with its size and schedule filled in. Rows of one batch share both."""

    request: GenerationRequest
    width: int
    height: int
    schedule: Schedule
    guidance: float

    @property
    def shape(self) -> tuple[int, int, Schedule]:
        """Jobs with the same shape can be drawn in one batch."""
        return self.width, self.height, self.schedule


@dataclass
class Drawn:
    """A job's picture and where its seconds went. Without a picture it was stopped, or `error` says
    why there is none."""

    picture: Image | None
    timings: dict[str, float] = field(default_factory=dict)
    error: EngineError | None = None


JobStep = Callable[[int, int, int], None]  # index of the job, step done, steps in all
JobStopped = Callable[[int], bool]  # index of the job -> stop drawing it


class Drawer:
    """A base on a device with its bank of adapters. `check` is thread-safe, `draw` is not."""

    def __init__(self, parts: Parts, base: ServedBase, bank: Bank) -> None:
        self.parts = parts
        self.base = base
        self.bank = bank
        self._rows_that_fit: dict[tuple[int, int], int] = {}

    @staticmethod
    def open(
        base: ServedBase,
        *,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        host_bytes: int = 1 << 30,
        device_bytes: int = 1 << 28,
        batch_rows: int = 16,
    ) -> Drawer:
        """Load the base. "auto" takes a CUDA device if there is one; fp16 there, fp32 on a CPU.

        Raises `diffusion.load.PartsError` naming what is wrong with the base's folder.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype is None:
            dtype = torch.float32 if device == "cpu" else torch.float16
        parts = load_parts(base.folder, base.family, device=device, dtype=dtype)
        # The decoder's convolutions run 14 % faster this way, on a CPU too (docs/serving.md).
        parts.unet.to(memory_format=torch.channels_last)
        parts.vae.to(memory_format=torch.channels_last)
        bank = Bank(
            parts,
            base,
            host_bytes=host_bytes,
            device_bytes=device_bytes,
            batch_rows=batch_rows,
        )
        return Drawer(parts, base, bank)

    @property
    def halved(self) -> bool:
        """Whether a batch did not fit into memory so far."""
        return bool(self._rows_that_fit)

    def check(self, request: GenerationRequest) -> Job:
        """Fill in defaults and refuse what cannot be drawn, before anything is loaded or queued.

        Raises `RequestRefused` naming field and value, `AdapterRefused` for the personal model.
        """
        family = self.base.family
        defaults = DEFAULTS[family][request.quality]
        width = self.parts.resolution if request.width is None else request.width
        height = self.parts.resolution if request.height is None else request.height
        steps = defaults.schedule.steps if request.steps is None else request.steps
        guidance = defaults.guidance if request.guidance is None else request.guidance
        most = MAX_SIDE[family]
        for name, value in (("width", width), ("height", height)):
            if value % 8 or not 8 <= value <= most:
                raise RequestRefused(
                    f"`{name}` must be divisible by 8 and 8 to {most} but is {value}."
                )
        if not 1 <= steps <= MAX_STEPS:
            raise RequestRefused(f"`steps` must be 1 to {MAX_STEPS} but is {steps}.")
        _in_range("guidance", guidance, 0.0, MAX_GUIDANCE)
        _in_range("strength", request.strength, 0.0, MAX_STRENGTH)
        if not 0 <= request.seed < 1 << 63:
            raise RequestRefused(f"`seed` must be 0 to 2**63 - 1 but is {request.seed}.")
        for name, text in (("prompt", request.prompt), ("negative", request.negative)):
            if len(text) > MAX_PROMPT_CHARS:
                raise RequestRefused(
                    f"`{name}` has {len(text)} characters; the most is {MAX_PROMPT_CHARS}."
                )
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise RequestRefused(f"`{name}` is no text: {error}.") from error
        self.bank.check(Wanted(request.adapter, request.strength))
        return Job(request, width, height, schedule_for(family, request.quality, steps), guidance)

    @torch.inference_mode()
    def draw(
        self,
        jobs: Sequence[Job],
        *,
        on_step: JobStep | None = None,
        stopped: JobStopped | None = None,
    ) -> list[Drawn]:
        """Draw jobs of one shape together: one UNet call per step, whoever they belong to.

        Where memory does not suffice the batch is halved and drawn in turn, and later batches of
        that size start halved; a single picture that does not fit raises `OutOfMemory`. More jobs
        than the bank's `batch_rows` are drawn in turn.
        """
        size = jobs[0].width, jobs[0].height
        most = self._rows_that_fit.get(size, self.bank.batch_rows)
        if len(jobs) > most:
            return self._in_turn(jobs, most, on_step, stopped)
        try:
            return self._draw(jobs, on_step, stopped)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, so that the failed attempt's tensors are free before the next.
        if self.parts.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(jobs) == 1:
            job = jobs[0]
            raise OutOfMemory(
                f"A picture of {job.width} x {job.height} does not fit into the memory of "
                f"{self.parts.device}. Ask for a smaller one."
            )
        _LOG.warning("out of memory with %d pictures at once; halving", len(jobs))
        self._rows_that_fit[size] = len(jobs) // 2
        return self._in_turn(jobs, len(jobs) // 2, on_step, stopped)

    def close(self) -> None:
        """Take the adapters off the base and forget both."""
        self.bank.close()
        self.parts.drop("unet", "vae", "text_encoder", "tokenizer")

    # -- inside -------------------------------------------------------------------------------

    def _in_turn(
        self, jobs: Sequence[Job], first: int, on_step: JobStep | None, stopped: JobStopped | None
    ) -> list[Drawn]:
        drawn = self.draw(jobs[:first], on_step=on_step, stopped=stopped)
        return drawn + self.draw(
            jobs[first:],
            on_step=None if on_step is None else lambda n, a, b: on_step(n + first, a, b),
            stopped=None if stopped is None else lambda n: stopped(n + first),
        )

    def _draw(
        self, jobs: Sequence[Job], on_step: JobStep | None, stopped: JobStopped | None
    ) -> list[Drawn]:
        start = time.perf_counter()
        with self.bank.seated(
            [Wanted(j.request.adapter, j.request.strength) for j in jobs]
        ) as slots:
            switched = time.perf_counter()
            rows = self._rows(jobs, slots)
            encoded = self._now()
            latents = self._denoise(jobs, slots, rows, on_step, stopped)
        denoised = self._now()
        drawn = [Drawn(None) if row is None else self._decode(row) for row in latents]
        timings = {
            "switch": switched - start,
            "encode": encoded - switched,
            "denoise": denoised - encoded,
            "decode": self._now() - denoised,
        }
        for one in drawn:
            one.timings = dict(timings)
        return drawn

    def _decode(self, row: torch.Tensor) -> Drawn:
        pixels = decode_pixels(self.parts, row)
        if torch.isfinite(pixels).all():
            return Drawn(pictures(pixels)[0])
        # As bytes these would be a black picture.
        text = (
            "The picture came out as no numbers: the personal model's weights, the strength or the "
            "guidance is too large for it. Ask with less strength or guidance, or another seed."
        )
        return Drawn(None, error=NotFinite(text))

    def _denoise(
        self,
        jobs: Sequence[Job],
        slots: Sequence[int],
        rows: Sequence[Row],
        on_step: JobStep | None,
        stopped: JobStopped | None,
    ) -> list[torch.Tensor | None]:
        alive: list[int] = []

        def bind(unet_rows: Sequence[int]) -> None:
            alive[:] = dict.fromkeys(unet_rows)
            self.bank.bind_unet([slots[n] for n in unet_rows])

        def tell(done: int, total: int) -> None:
            for n in alive:
                if on_step is not None:
                    on_step(n, done, total)

        try:
            return sample(
                self.parts,
                rows,
                jobs[0].schedule,
                width=jobs[0].width,
                height=jobs[0].height,
                before_step=bind,
                on_step=tell,
                stopped=stopped,
            )
        finally:
            self.bank.bind_unet(None)

    def _rows(self, jobs: Sequence[Job], slots: Sequence[int]) -> list[Row]:
        """Embed every prompt and negative with its own person's word and text adapters."""
        try:
            self.bank.bind_text(slots)
            prompts = encode_prompt(self.parts, [job.request.prompt for job in jobs])
            negatives = encode_prompt(self.parts, [job.request.negative for job in jobs])
        finally:
            self.bank.bind_text(None)
        return [
            Row(
                prompts.row(n),
                self._negative(job, negatives.row(n)),
                job.guidance,
                job.request.seed,
                ZERO_SNR_RESCALE if self.parts.zero_snr and job.guidance > RESCALE_ABOVE else 0.0,
            )
            for n, job in enumerate(jobs)
        ]

    def _negative(self, job: Job, embeds: PromptEmbeds) -> PromptEmbeds:
        if self.parts.zero_empty_negative and not job.request.negative:
            return embeds.zeros()
        return embeds

    def _now(self) -> float:
        if self.parts.device.type == "cuda":
            torch.cuda.synchronize(self.parts.device)
        return time.perf_counter()


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise RequestRefused(f"`{name}` must be {low:g} to {high:g} but is {value}.")
