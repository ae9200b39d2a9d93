"""diffzero: any diffusion model as a zero-shot image classifier."""

__version__ = "0.1.0"
