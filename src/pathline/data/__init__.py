"""Data as tensors: small real series that travel with the package, and generators."""

from __future__ import annotations

from pathline.data.digits import digits
from pathline.data.events import Events, sinusoidal_events
from pathline.data.fashion_mnist import fashion_mnist
from pathline.data.hudson_bay import hudson_bay
from pathline.data.japanese_vowels import japanese_vowels
from pathline.data.mnist import mnist5000
from pathline.data.nafld import nafld
from pathline.data.pbcseq import pbcseq
from pathline.data.pendulum_frames import PendulumDraws, PendulumFilms, pendulum_frames
from pathline.data.series import Series, SeriesFile, Standardization, growing
from pathline.data.sinusoids import sine_wave, sinusoids
from pathline.data.smoothing import SmoothingSpline
from pathline.data.spheres import concentric_spheres
from pathline.data.spirals import Spirals, spirals
from pathline.data.targets import TARGETS, Target
from pathline.data.toy import crossing, cubic, two_moons

__all__ = [
    "TARGETS",
    "Events",
    "PendulumDraws",
    "PendulumFilms",
    "Series",
    "SeriesFile",
    "SmoothingSpline",
    "Spirals",
    "Standardization",
    "Target",
    "concentric_spheres",
    "crossing",
    "cubic",
    "digits",
    "fashion_mnist",
    "growing",
    "hudson_bay",
    "japanese_vowels",
    "mnist5000",
    "nafld",
    "pbcseq",
    "pendulum_frames",
    "sine_wave",
    "sinusoidal_events",
    "sinusoids",
    "spirals",
    "two_moons",
]
