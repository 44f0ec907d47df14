"""Blood pressure and what keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pathline.fields.physics.known import Known, Quantity


class Circulation(Known):
    r"""A heart, two elastic vessels and the baroreflex between them. *Experimental.*

    $$C_a \dot p_a = -\frac{p_a - p_v}{R} + v f, \qquad C_v \dot p_v = \frac{p_a - p_v}{R} - v f + i$$

    $$\tau \dot s = 1 - \sigma\bigl(k (p_a - p_\text{set})\bigr) - s, \qquad \dot v = c\, i$$

    $$f = f_\text{min} + s\,(f_\text{max} - f_\text{min}), \qquad
    R = R_\text{min} + s\,(R_\text{max} - R_\text{min}) - \Delta R$$

    The state is the arterial and the venous pressure (mmHg), the tone s of the reflex (0 to 1) and the stroke volume v
    (ml); time is in seconds; f is the heart rate, R the resistance. What a patient suffers from shows in two
    quantities: ``inflow`` i (ml a second; negative where blood is lost) and ``dilation`` ΔR (mmHg s/ml; vessels that
    have lost their tension). Both make the pressure fall and the heart beat faster. Without inflow the blood volume
    $C_a p_a + C_v p_v$ and the stroke volume stay, so that there is a state of rest for each pair of them: with strokes
    of 70 to 90 ml at 77 to 79 mmHg, 63 to 70 beats and 4.9 to 5.7 litres a minute. That is the low end of what is
    normal; ``set_point=90`` rests at 95 to 97 mmHg. A disturbance fades in swings of 19 s.

    The reflex and the vessels are those of Zenker et al. with the stroke volume as a state, as in Linial et al. Two
    simplifications weigh: the stroke volume follows the inflow alone and not the filling of the heart, and nothing
    stops a long loss of blood before the venous pressure is negative. The defaults were judged by this state of rest
    and not compared with the tables of either paper: give your own where numbers matter.

    Args:
        inflow: i.
        dilation: ΔR, not negative; where it reaches the least resistance, R may vanish. Infer it within (0, 0.5).
        slowest: $f_\text{min}$, beats a second.
        fastest: $f_\text{max}$.
        least: $R_\text{min}$.
        most: $R_\text{max}$.
        arteries: $C_a$, ml/mmHg.
        veins: $C_v$.
        steepness: k, 1/mmHg.
        set_point: $p_\text{set}$, mmHg.
        delay: τ, seconds.
        filling: c, ml of stroke volume a ml of inflow.
        learn: Names of the quantities that are parameters.
        dtype: Type of the quantities.

    Example:
        >>> import torch
        >>> bleeding = {"inflow": torch.tensor([0.0, -2.0])}
        >>> Circulation()(torch.tensor(0.0), torch.tensor([75.0, 3.0, 0.15, 90.0]), bleeding).shape
        torch.Size([2, 4])

    References:
        S. Zenker, J. Rubin, G. Clermont (2007), From inverse problems in mathematical physiology to quantitative
        differential diagnoses. O. Linial, N. Ravid, D. Eytan, U. Shalit (2021), Generative ODE modeling with known
        unknowns.
    """

    components = ("arterial", "venous", "tone", "stroke volume")

    inflow = Quantity(unit="ml/s")
    dilation = Quantity(0.0, unit="mmHg s/ml", closed=True)
    slowest = Quantity(0.0, unit="1/s")
    fastest = Quantity(0.0, unit="1/s")
    least = Quantity(0.0, unit="mmHg s/ml")
    most = Quantity(0.0, unit="mmHg s/ml")
    arteries = Quantity(0.0, unit="ml/mmHg")
    veins = Quantity(0.0, unit="ml/mmHg")
    steepness = Quantity(0.0, unit="1/mmHg")
    set_point = Quantity(0.0, unit="mmHg")
    delay = Quantity(0.0, unit="s")
    filling = Quantity(0.0)

    def __init__(
        self,
        inflow: float | Tensor = 0.0,
        dilation: float | Tensor = 0.0,
        slowest: float | Tensor = 2 / 3,
        fastest: float | Tensor = 3.0,
        least: float | Tensor = 0.5335,
        most: float | Tensor = 2.134,
        arteries: float | Tensor = 4.0,
        veins: float | Tensor = 111.0,
        steepness: float | Tensor = 0.1838,
        set_point: float | Tensor = 70.0,
        delay: float | Tensor = 20.0,
        filling: float | Tensor = 0.01,
        *,
        learn: Sequence[str] = (),
        dtype: torch.dtype | None = None,
    ) -> None:
        heart = {"inflow": inflow, "dilation": dilation, "slowest": slowest, "fastest": fastest}
        vessels = {"least": least, "most": most, "arteries": arteries, "veins": veins}
        reflex = {"steepness": steepness, "set_point": set_point, "delay": delay, "filling": filling}
        super().__init__(heart | vessels | reflex, learn, dtype)

    def forward(self, t: Tensor, y: Tensor, args: Mapping[str, Tensor] | None = None) -> Tensor:
        """The rate of ``(arterial, venous, tone, stroke volume)``, ``(..., 4)``."""
        inflow, dilation, _, _, least, most, arteries, veins, steepness, set_point, delay, filling = self.values(
            args, y
        )
        arterial, venous, tone, volume = y.unbind(-1)
        frequency = self.frequency(y, args)
        resistance = least + tone * (most - least) - dilation
        into_arteries = volume * frequency - (arterial - venous) / resistance
        rates = [
            into_arteries / arteries,
            (inflow - into_arteries) / veins,
            (torch.sigmoid(-steepness * (arterial - set_point)) - tone) / delay,
            filling * inflow,
        ]
        return torch.stack(torch.broadcast_tensors(*rates), -1)

    def frequency(self, y: Tensor, args: Mapping[str, Tensor] | None = None) -> Tensor:
        """Heart beats a second, ``(...)``."""
        slowest, fastest = self.values(args, y)[2:4]
        return slowest + y[..., 2] * (fastest - slowest)

    def blood(self, y: Tensor, args: Mapping[str, Tensor] | None = None) -> Tensor:
        """Volume that stretches the vessels, in ml, ``(...)``."""
        arteries, veins = self.values(args, y)[6:8]
        return arteries * y[..., 0] + veins * y[..., 1]
