"""Programs as the original's published examples make them, under both libraries: what is trained comes out alike."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torchdiffeq as original
from torch import nn

from pathline.compat import torchdiffeq as ours


def trained(parameters, loss, steps=3, rate=1e-2):
    """The losses of a few steps."""
    optimizer = torch.optim.Adam(parameters, lr=rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    return torch.stack(losses)


def fit_of_a_spiral(lib):
    """Mini-batches of segments of a cubic spiral."""
    true_y0, t = torch.tensor([[2.0, 0.0]]), torch.linspace(0.0, 5.0, 100)
    turn = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])

    class Lambda(nn.Module):
        def forward(self, t, y):
            return torch.mm(y**3, turn)

    with torch.no_grad():
        true_y = lib.odeint(Lambda(), true_y0, t, method="dopri5", rtol=1e-6, atol=1e-7)
    net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))
    for m in net.modules():
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, mean=0, std=0.1)
            nn.init.constant_(m.bias, val=0)

    class ODEFunc(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, t, y):
            return self.net(y**3)

    func = ODEFunc()
    s = torch.randint(0, 90, (20,))
    batch_y = torch.stack([true_y[s + i] for i in range(10)])

    def loss():
        return torch.mean(torch.abs(lib.odeint_adjoint(func, true_y[s], t[:10]) - batch_y))

    return trained(func.parameters(), loss)


def image_classifier(lib):
    """An ODE block between two layers of a classifier, time as a channel of its convolutions."""

    class ConcatConv2d(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self._layer = nn.Conv2d(dim + 1, dim, 3, padding=1)

        def forward(self, t, x):
            return self._layer(torch.cat([torch.ones_like(x[:, :1, :, :]) * t, x], 1))

    class ODEfunc(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.norm1, self.conv1 = nn.GroupNorm(min(4, dim), dim), ConcatConv2d(dim)
            self.norm2, self.conv2 = nn.GroupNorm(min(4, dim), dim), ConcatConv2d(dim)
            self.nfe = 0

        def forward(self, t, x):
            self.nfe += 1
            x = self.conv1(t, torch.relu(self.norm1(x)))
            return self.conv2(t, torch.relu(self.norm2(x)))

    class ODEBlock(nn.Module):
        def __init__(self, odefunc):
            super().__init__()
            self.odefunc = odefunc
            self.integration_time = torch.tensor([0, 1]).float()

        def forward(self, x):
            self.integration_time = self.integration_time.type_as(x)
            return lib.odeint_adjoint(self.odefunc, x, self.integration_time, rtol=1e-4, atol=1e-4)[1]

    block = ODEBlock(ODEfunc(4))
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), block, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(4, 3))
    x, y = torch.rand(4, 1, 9, 9), torch.tensor([0, 1, 2, 0])
    losses = trained(model.parameters(), lambda: nn.functional.cross_entropy(model(x), y), steps=2)
    assert block.odefunc.nfe > 0
    return losses


def latent_ode(lib):
    """A recurrent encoder, an ODE in the latent space, a decoder."""
    encoder, decoder = nn.GRU(2, 12, batch_first=True), nn.Linear(4, 2)
    dynamics = nn.Sequential(nn.Linear(4, 20), nn.ELU(inplace=True), nn.Linear(20, 4))
    t = torch.linspace(0.0, 2.0, 15)
    data = torch.stack([torch.stack([torch.sin(t + i), torch.cos(t + i)], -1) for i in range(6)])
    noise = torch.randn(6, 4)

    def loss():
        mean, log_var = encoder(data.flip(1))[1][0].split([4, 8], dim=1)
        z0 = mean + noise * torch.exp(0.5 * log_var[:, :4])
        pred_z = lib.odeint(lambda t, z: dynamics(z), z0, t).permute(1, 0, 2)
        kl = (mean.square() + log_var[:, :4].exp() - log_var[:, :4] - 1.0).mean()
        return (decoder(pred_z) - data).square().mean() + 1e-2 * kl

    return trained([*encoder.parameters(), *decoder.parameters(), *dynamics.parameters()], loss)


def continuous_flow(lib):
    """A density whose trace is differentiated inside of the field, from one to nought."""

    class CNF(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2))

        def forward(self, t, states):
            z, _ = states
            with torch.set_grad_enabled(True):
                z.requires_grad_(True)
                dz = self.net(torch.cat([z, torch.ones(len(z), 1) * t], dim=1))
                trace = sum(torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(2))
            return dz, -trace.view(-1, 1)

    flow, x = CNF(), torch.randn(24, 2) * 0.5 + 1.0

    def loss():
        z, log_p = lib.odeint_adjoint(
            flow, (x, torch.zeros(24, 1)), torch.tensor([1.0, 0.0]), atol=1e-5, rtol=1e-5, method="dopri5"
        )
        return (0.5 * z[-1].square().sum(1) + math.log(2 * math.pi) + log_p[-1].view(-1)).mean()

    return trained(flow.parameters(), loss)


def learnt_physics(lib):
    """Gravity from the times of two bounces."""
    log_gravity = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    class Fall(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_gravity = log_gravity

        def forward(self, t, state):
            height, speed = state
            return speed, -self.log_gravity.exp().expand_as(height)

    fall = Fall()
    solve = functools.partial(
        lib.odeint_event, fall, event_fn=lambda t, s: s[0].squeeze(), odeint_interface=lib.odeint_adjoint
    )

    def loss():
        t0 = torch.zeros(1, dtype=torch.float64)
        state = (torch.tensor([5.0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
        times = []
        for _ in range(2):
            t0, (height, speed) = solve(state, t0, rtol=1e-8, atol=1e-8)
            times.append(t0)
            state = (height[-1] + 1e-7, -0.8 * speed[-1])
        return (torch.stack(times) - torch.tensor([1.0, 2.6], dtype=torch.float64)).square().sum()

    return trained([log_gravity], loss, rate=0.1)


def irregular_series(lib):
    """A recurrent cell between short solves of one step each."""
    cell, drift = nn.GRUCell(1, 6), nn.Linear(6, 6)
    t, x = torch.tensor([0.0, 0.1, 0.35, 0.9, 1.4]), torch.randn(5, 3, 1)

    def loss():
        h = torch.zeros(3, 6)
        for i in range(5):
            if i:
                h = lib.odeint(lambda s, y: torch.tanh(drift(y)), h, t[i - 1 : i + 1], method="euler")[-1]
            h = cell(x[i], h)
        return h.square().mean()

    return trained([*cell.parameters(), *drift.parameters()], loss)


def energy(lib):
    """A Hamiltonian field, differentiated inside, rolled out without gradient."""
    h = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1)).double()

    def field(t, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (g,) = torch.autograd.grad(h(x).sum(), x)
        return torch.stack([g[..., 1], -g[..., 0]], -1)

    with torch.no_grad():
        ys = lib.odeint(field, torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.linspace(0, 5, 9).double())
        return torch.cat([ys.flatten(), (h(ys[-1]) - h(ys[0])).flatten()])


@pytest.mark.parametrize(
    "program",
    [fit_of_a_spiral, image_classifier, latent_ode, continuous_flow, learnt_physics, irregular_series, energy],
    ids=lambda program: program.__name__,
)
def test_a_program_trains_alike(program):
    found = []
    for lib in (ours, original):
        torch.manual_seed(7)
        found.append(program(lib))
    assert found[0].dtype == found[1].dtype
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
    if program is not energy:
        assert found[0][-1] != found[0][0]
