"""What `test_mixture_kernel.py` runs in a process of its own: sums and a fit over simulated devices."""

import os
import sys
from typing import Any

devices = int(sys.argv[1])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

import latentzoo as lz  # noqa: E402
from latentzoo.inference import accumulate  # noqa: E402
from latentzoo.inference.kernels.mixture import mixture_sums  # noqa: E402
from latentzoo.inference.kernels.moments import Moments  # noqa: E402

rng = np.random.default_rng(0)
x, more = rng.normal(size=(8 * 700, 2)), rng.gamma(2.0, size=(8 * 700, 1))
moments, natural = Moments(x, np.array([0.5, -0.5]), "squares", more), rng.normal(size=(6, 3))
wanted = mixture_sums(moments, natural)
with jax.enable_x64(True):
    rows = NamedSharding(jax.make_mesh((devices,), ("rows",)), PartitionSpec("rows"))
    spread = moments._replace(x=jax.device_put(x, rows), more=jax.device_put(more, rows))
    assert len(spread.x.sharding.device_set) == devices
    for found, target in zip(mixture_sums(spread, natural), wanted, strict=True):
        np.testing.assert_allclose(np.asarray(found), target, rtol=1e-12, atol=1e-9)

zoo = lz.get("earthquakes", num_components=3)
data = zoo.simulate(seed=0, num_rows=8 * 700 + 3)[0]  # does not divide evenly
prior = zoo.prior(data)
params = zoo.init(data, prior, seed=0)
where: set[int] = set()


def e_step(*arguments: Any) -> Any:
    """Return the statistics of one device's rows, whose number it keeps."""
    where.add(len(arguments[1].location))
    return zoo.closed_form.e_step(*arguments)


sums = accumulate.on_devices(e_step)(params, data, prior, zoo.spec)
assert where == {len(data.location) // devices, len(data.location) % devices}
for one, other in zip(sums, zoo.closed_form.e_step(params, data, prior, zoo.spec), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-9)

for name, method in (("gaussian_mixture", "em"), ("earthquakes", "cavi")):
    zoo = lz.get(name, num_components=2)
    data = zoo.simulate(seed=1, num_rows=501)[0]  # does not divide evenly
    ours, theirs = (  # both stop early, and say so
        lz.fit(zoo, data, method, executor=executor, num_steps=4, tol=0.0, progress=False)
        for executor in ("numpy", "jax")
    )
    np.testing.assert_allclose(theirs.elbo_trace, ours.elbo_trace, rtol=1e-12)
    assert isinstance(theirs.params.theta.loc if method == "em" else theirs.params.phi.loc_mean, np.ndarray)

sys.stdout.write(f"{len(jax.devices())} agree\n")
