"""Write what kymatio makes of seeded images: the numbers that test_scattering.py compares with.

uv run --no-project --with kymatio==0.3.0 --with "scipy<1.15" python tests/hub/kymatio_reference.py
"""

from pathlib import Path

import numpy as np

PATH = Path(__file__).with_suffix(".npz")
SIDES = (16, 28, 30)


def images(side):
    """Noise, and a disc on black, float32 [2, side, side] in [0, 1]."""
    rows, columns = np.mgrid[:side, :side]
    disc = (rows - side / 3) ** 2 + (columns - side / 2) ** 2 < (side / 4) ** 2
    return np.stack([np.random.default_rng(side).random((side, side)), disc]).astype(np.float32)


if __name__ == "__main__":
    from kymatio.numpy import Scattering2D

    made = {str(side): Scattering2D(J=2, L=8, shape=(side, side))(images(side)) for side in SIDES}
    np.savez_compressed(PATH, **{side: of.astype(np.float32) for side, of in made.items()})
