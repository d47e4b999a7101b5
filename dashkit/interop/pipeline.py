"""Guided class-conditional sampling by diffusers, with the samples of dashkit.

`dashkit export` copies this file into the folder of a network.  It needs diffusers and nothing of dashkit.
"""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DiTTransformer2DModel, ImagePipelineOutput, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor


def _whole(value: Any) -> int:
    """A whole number of any library as an int, and -1 for anything else."""
    try:
        return -1 if isinstance(value, bool) else operator.index(value)
    except (TypeError, RuntimeError):
        return -1


class GuidedPipeline(DiffusionPipeline):
    """Images of classes: `pipe(class_labels=[0, 1], guidance_scale=1.5, num_inference_steps=50).images`.

    `id2label` names the classes: {"0": "cat", ...}.  `null_label` means "no class": if it is not given, the last row of
    the network's class table.  ValueError if it is not given, and the network has no such table.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet2DModel | DiTTransformer2DModel, scheduler: DDIMScheduler,
                 id2label: dict | None = None, null_label: int | None = None) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(id2label=id2label, null_label=null_label)
        self.labels = {name: int(number) for number, name in (id2label or {}).items()}
        config = unet.config
        rows = config.get("num_class_embeds")                # of the network's class table; some have none
        last = config.get("num_embeds_ada_norm") if rows is None else rows - 1
        if last is None and null_label is None:
            raise ValueError("the network has no table of classes, so null_label must say what it takes for no class")
        self.null_label = last if null_label is None else null_label
        self.last = max(*self.labels.values(), self.null_label, 0) if last is None else last

    def get_label_ids(self, labels: str | int | Sequence[str | int]) -> list[int]:
        """The numbers of classes given by name or by number; ValueError for a class that the network does not have."""
        many = isinstance(labels, Iterable) and not isinstance(labels, str) and getattr(labels, "ndim", True)
        given: list[Any] = [*labels] if many and isinstance(labels, Iterable) else [labels]
        found = [self.labels.get(v, -1) if isinstance(v, str) else _whole(v) for v in given]
        if not given:
            raise ValueError("class_labels must name at least one class")
        wrong = [v for v, number in zip(given, found, strict=True) if not 0 <= number <= self.last]
        if wrong:
            names = ", ".join(f"{number} {name}" for name, number in list(self.labels.items())[:20])
            raise ValueError(f"there is no class {wrong[0]!r}; there are 0 to {self.last - 1} "
                             f"({names}{', …' if len(self.labels) > 20 else ''}), and {self.null_label} for no class")
        return found

    @torch.no_grad()
    def __call__(
        self,
        class_labels: str | int | Sequence[str | int],
        guidance_scale: float | Sequence[float] = 1.5,
        num_inference_steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Draw one image for each of B labels, numbers or names, by DDIM without added noise.

        With the prediction c for the class and u for no class, a step uses u + w (c - u): the scale w is 1 for no
        guidance, 0 for no class, or a table of one w for each of the T timesteps.  `latents` (B, C, H, W) is the noise
        to start from.  `output_type` is pil, np, (B, H, W, C) in [0, 1], or pt, (B, C, H, W) in [-1, 1], as the network
        gives it.  A network of latents gives no pictures: its `output_type` is pt or latent, both (B, C, H, W) of any
        size, for the VAE that encoded what it was trained on.  ValueError for other values.
        """
        T, device = self.scheduler.config.num_train_timesteps, self.unet.device
        if not self.scheduler.config.clip_sample and output_type not in ("pt", "latent"):
            raise ValueError(f'this network draws latents, not pictures: take output_type="pt", not {output_type!r}, '
                             "and decode them with the VAE that encoded its training images")
        if self.scheduler.config.clip_sample and output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type must be pil, np or pt, not {output_type!r}")
        steps = _whole(num_inference_steps)
        if not 1 <= steps <= T:
            raise ValueError(f"num_inference_steps must be a whole number in 1 .. {T}, not {num_inference_steps!r}")
        try:
            table = torch.as_tensor(guidance_scale, dtype=torch.float32).flatten().tolist()
        except (TypeError, ValueError, RuntimeError):
            table = []
        if len(table) not in (1, T) or not all(0 <= w <= 20 for w in table):
            raise ValueError(f"guidance_scale must be a number in [0, 20], or {T} of them")
        labels = torch.tensor(self.get_label_ids(class_labels), device=device)
        size = self.unet.config.sample_size
        shape = (len(labels), self.unet.config.in_channels, size, size)
        x = randn_tensor(shape, generator, device, self.unet.dtype) if latents is None else latents.to(
            device, self.unet.dtype)
        if x.shape != shape:
            raise ValueError(f"latents must have shape {shape}, not {tuple(x.shape)}")

        alphas = self.scheduler.alphas_cumprod.to(device)
        times = [i * T // steps for i in reversed(range(steps))]
        for t, earlier in self.progress_bar(list(zip(times, [*times[1:], None], strict=True))):
            signal, noise = alphas[t].sqrt(), (1 - alphas[t]).sqrt()
            out, kind = self._guided(x, t, labels, table[t] if len(table) > 1 else table[0]), self.scheduler.config
            if kind.prediction_type == "epsilon":
                x0 = (x - noise * out) / signal
            else:                                        # what is guided is linear in eps, so guidance is the same
                x0 = out if kind.prediction_type == "sample" else signal * x - noise * out
            if kind.clip_sample:                         # not for latents
                x0 = x0.clamp(-kind.clip_sample_range, kind.clip_sample_range)
            eps = (x - signal * x0) / noise              # again, so that x0 and eps still explain x
            x = x0 if earlier is None else alphas[earlier].sqrt() * x0 + (1 - alphas[earlier]).sqrt() * eps

        if output_type in ("pt", "latent"):
            return ImagePipelineOutput(images=x)
        images = ((x + 1) / 2).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(images) if output_type == "pil" else images)

    def _guided(self, x: torch.Tensor, t: int, labels: torch.Tensor, w: float) -> torch.Tensor:
        """The guided prediction (B, C, H, W) at timestep t; one pass of the network where w is 0 or 1, else both."""
        null = torch.full_like(labels, self.null_label)
        if w in (0, 1):
            return self._predicted(x, t, labels if w else null)
        c, u = self._predicted(torch.cat([x, x]), t, torch.cat([labels, null])).chunk(2)
        return u + w * (c - u)

    def _predicted(self, x: torch.Tensor, t: int, labels: torch.Tensor) -> torch.Tensor:
        """The network's prediction (B, C, H, W), without the variance that some learn beside it."""
        times = torch.full((len(x),), t, device=x.device)
        return self.unet(x, times, class_labels=labels).sample[:, : x.shape[1]]
