"""In which directions of a latent an attribute shows, so that learning can look there.

A mouth is three of the 256 places of a latent, and most of what differs between two mouths is not
the expression: in a plain mean over all places, whether the expression is right moves the error by
a thousandth, and the denoiser that learned hair and clothes drew everyone with the same face. Along
the linear discriminants of an attribute, half to nine tenths of what varies is the attribute. An
error that counts more there has the same least, the conditional mean, and is soon felt.

Source: R. A. Fisher, The use of multiple measurements in taxonomic problems, 1936.
"""

from __future__ import annotations

import torch

from training.starter import artwork, palette, pictures, probe

STYLES = (*artwork.DRAWN_STYLES, "photo")
VALUES: dict[str, list[str]] = {
    **{
        name: list(probe.CLASSES[name]) for name in ("expression", "facial_hair", "glasses", "hair")
    },
    "skin": list(palette.SKIN),
}
"""What the directions show: classes, and skin by the nearest word for it."""

RIDGE = 0.02
"""Added to the within-class variance, as a share of its mean: keeps what is seldom seen small."""

LEAST = 0.15
"""A direction stays if the attribute explains this share of it in pictures kept out of the fit."""


def of(subjects: list[pictures.Subject]) -> torch.Tensor:
    """The number of each subject's style."""
    return torch.tensor([STYLES.index(subject.scene.style) for subject in subjects])


def directions(latents: torch.Tensor, subjects: list[pictures.Subject]) -> torch.Tensor:
    """The discriminants of every attribute: styles x D x latent's size, zero where none holds.

    Along each, pictures vary by a deviation of one over the root of the attribute's directions, so
    that every attribute counts the same.
    """
    flat, style = latents.flatten(1), of(subjects)
    shown = [_named(subject) for subject in subjects]
    found = []
    for name, values in VALUES.items():
        labels = torch.tensor([values.index(one[name]) for one in shown])
        rows = [_discriminants(flat[style == n], labels[style == n]) for n in range(len(STYLES))]
        most = len(values) - 1
        padded = [torch.nn.functional.pad(row, (0, 0, 0, most - len(row))) for row in rows]
        found.append(torch.stack(padded) / most**0.5)
    return torch.cat(found, 1)


def _named(subject: pictures.Subject) -> dict[str, str]:
    classes, colours = probe.truth(subject.person, subject.scene)
    return classes | {"skin": palette.word(colours["skin"], palette.SKIN)}


def _discriminants(pictured: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Directions between the classes' means, of unit variance."""
    kept_out = torch.arange(len(labels)) % 5 == 0
    fit, named = pictured[~kept_out], labels[~kept_out]
    present = torch.tensor(sorted(set(named.tolist())))
    if len(present) < 2 or not kept_out.any():
        return pictured[:0]
    means = torch.stack([fit[named == label].mean(0) for label in present])
    within = fit - means[torch.searchsorted(present, named)]
    spread = within.T @ within / len(within)
    spread += RIDGE * within.var() * torch.eye(len(spread))
    raw = torch.linalg.solve(spread, (means - fit.mean(0)).T).T
    strength, turn = torch.linalg.eigh(raw @ spread @ raw.T)
    strength, turn = strength[1:], turn[:, 1:]  # the means lie in one dimension fewer
    found = (turn / strength.clamp_min(1e-8).sqrt()).T @ raw
    found = found[_explained(found, pictured, labels, kept_out) > LEAST]
    spread_along = ((fit - fit.mean(0)) @ found.T).pow(2).mean(0).sqrt()
    return found / spread_along[:, None]


def _explained(
    found: torch.Tensor, pictured: torch.Tensor, labels: torch.Tensor, kept_out: torch.Tensor
) -> torch.Tensor:
    """The share of each direction that the class explains, in pictures kept out of the fit."""
    along = pictured @ found.T
    told = torch.zeros_like(along)
    for label in set(labels[~kept_out].tolist()):
        told[labels == label] = along[~kept_out & (labels == label)].mean(0)
    test = along[kept_out]
    return 1 - (test - told[kept_out]).pow(2).sum(0) / (test - test.mean(0)).pow(2).sum(0)
