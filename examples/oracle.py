"""A mixture whose posterior is known: the ELBO of its exact denoiser agrees with it."""

import numpy as np
import torch

import diffzero as dz

generator = torch.Generator().manual_seed(0)
means = 0.11 * torch.randn(3, 1, 3, 4, 4, generator=generator)
backbone = dz.MixtureBackbone(
    weights=torch.ones(3, 1),
    means=means,
    stds=torch.full((3, 1), 0.3),
    schedule=dz.LogSNRLinearSchedule(-6, 8),
)
noisy = (means[:, 0] + 0.3 * torch.randn(3, 3, 4, 4, generator=generator)).clamp(-1, 1)
pixels = ((noisy + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

classifier = dz.ELBO(backbone, weights="elbo", draws=1024).fit(backbone.classes)
x_0 = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 127.5 - 1
print("exact   ", np.round(backbone.posterior(x_0).numpy(), 2).tolist())
print("estimate", np.round(classifier.predict_proba(pixels), 2).tolist())
