"""Densities and draws of single distributions, and scikit-learn's probabilistic PCA."""

# Programs are printed as they stand here, so that they bear neither hints nor docstrings; Case declares the attributes.
# ruff: noqa: D102, RUF012
# mypy: disable-error-code="no-untyped-def,no-untyped-call,type-arg,misc"

import numpy as np
from scipy import stats

from latentzoo.benchmarks.conformance_cases.case import Case


class UnnormalisedProbabilities(Case):
    """`Categorical(probs)` whose probabilities do not sum to one, compiled."""

    title = "Categorical(probs) takes unnormalised probabilities as they are once it is compiled"
    user = "gives counts (1, 1, 2) as the probabilities, in a compiled function"
    known = "closed form"
    tolerance = 1e-10
    verdicts = {"pyro": "right", "numpyro": "wrong"}
    note = (
        "A density above one. Without jit NumPyro raises; a traced argument is not checked. Pyro and torch normalise,"
        " as torch documents. Use logits."
    )

    @staticmethod
    def exact() -> float:
        """Return the log probability of the third state."""
        return float(np.log(2 / 4))

    @staticmethod
    def pyro() -> float:
        import pyro.distributions as dist
        import torch

        return dist.Categorical(torch.tensor([1.0, 1.0, 2.0])).log_prob(torch.tensor(2)).item()

    @staticmethod
    def numpyro() -> float:
        import jax
        import jax.numpy as jnp
        import numpyro.distributions as dist

        return jax.jit(lambda probs: dist.Categorical(probs).log_prob(2))(jnp.array([1.0, 1.0, 2.0]))


class ZeroProbability(Case):
    """`Categorical(probs)` at a state of probability zero."""

    title = "Categorical(probs) gives an impossible state a finite log probability"
    user = "scores a state whose probability is zero"
    known = "closed form"
    tolerance = 1e-10
    verdicts = {"pyro": "wrong", "numpyro": "right"}
    note = "torch clamps probabilities at the machine epsilon, so that impossible evidence is not seen as such."

    @staticmethod
    def exact() -> float:
        """Return the logarithm of zero."""
        return -np.inf

    @staticmethod
    def pyro() -> float:
        import pyro.distributions as dist
        import torch

        return dist.Categorical(torch.tensor([0.0, 0.5, 0.5])).log_prob(torch.tensor(0)).item()

    @staticmethod
    def numpyro() -> float:
        import jax.numpy as jnp
        import numpyro.distributions as dist

        return dist.Categorical(jnp.array([0.0, 0.5, 0.5])).log_prob(0)


class PythonFloats(Case):
    """Hyperparameters that are Python floats, beside data in float64."""

    title = "Python floats become float32 even beside data in float64"
    user = "scores an observation in float64 under Gamma(2.0, 0.3); torch's default dtype is left alone"
    known = "SciPy"
    tolerance = 1e-13
    dtype = "float32"
    verdicts = {"pyro": "wrong", "numpyro": "right"}
    note = "Give tensors, or set torch's default dtype, which is process-wide."

    @staticmethod
    def exact() -> float:
        """Return the log density at 5."""
        return float(stats.gamma.logpdf(5.0, 2.0, scale=1 / 0.3))

    @staticmethod
    def pyro() -> float:
        import pyro.distributions as dist
        import torch

        return dist.Gamma(2.0, 0.3).log_prob(torch.tensor(5.0, dtype=torch.float64)).item()

    @staticmethod
    def numpyro() -> float:
        import jax.numpy as jnp
        import numpyro.distributions as dist

        return dist.Gamma(2.0, 0.3).log_prob(jnp.array(5.0))


class SingularWishart(Case):
    """Warnings of singular draws of a Wishart distribution."""

    title = "Wishart warns of singular draws where there are none, and draws the good ones again"
    user = "draws 100 matrices of Wishart(5, I) and counts the warnings"
    known = "theory: a draw is positive definite with probability one"
    tolerance = 0.0
    verdicts = {"torch": "wrong"}
    note = (
        "The first check is inverted: a draw in the support is taken for singular and made again, one that is singular"
        " is kept. Open as pytorch/pytorch#122021."
    )

    @staticmethod
    def exact() -> float:
        """Return the number of singular draws."""
        return 0.0

    @staticmethod
    def torch() -> float:
        import warnings

        import torch

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.distributions.Wishart(torch.tensor(5.0), torch.eye(2)).rsample((100,))
        return sum("Singular sample detected" in str(warning.message) for warning in caught)


class WishartUnconstrained(Case):
    """The map from the reals to the support of a Wishart distribution."""

    title = "NUTS has no map from the reals to positive definite matrices"
    user = "samples a Wishart site by NUTS, which needs that map; here its number of coordinates is asked for"
    known = "theory: a symmetric 2 by 2 matrix has three coordinates"
    tolerance = 0.0
    verdicts = {"pyro": "raises", "numpyro": "right"}
    note = "Model the Cholesky factor: LKJCholesky and scales, or Bartlett's decomposition."

    @staticmethod
    def exact() -> float:
        """Return the number of coordinates."""
        return 3.0

    @staticmethod
    def pyro() -> float:
        import pyro.distributions as dist
        import torch

        support = dist.Wishart(torch.tensor(5.0), torch.eye(2)).support
        return torch.distributions.biject_to(support).inv(torch.eye(2)).numel()

    @staticmethod
    def numpyro() -> float:
        import jax.numpy as jnp
        import numpyro.distributions as dist

        support = dist.Wishart(5.0, jnp.eye(2)).support
        return dist.biject_to(support).inv(jnp.eye(2)).size


class StatesNotFromZero(Case):
    """A discrete site whose states are not 0, 1, ..."""

    title = "TraceEnum_ELBO takes the states of every site for 0, 1, ..."
    user = "sums out z ~ DiscreteUniform(1, 3), seen through x ~ Normal(z, 1), under jit"
    known = "enumeration: the log of the mean of three normal densities"
    tolerance = 1e-10
    verdicts = {"pyro": "absent", "numpyro": "wrong"}
    note = (
        "The enumerating handler makes the values of a site by arange(size), whatever its enumerate_support says; so no"
        " one-hot site can be enumerated. Without jit, validation warns of values outside the support. Take a"
        " Categorical, and count its states from 0."
    )

    @staticmethod
    def exact() -> float:
        """Return log p(x = 2.5)."""
        from scipy.stats import norm

        return float(np.log(norm([1, 2, 3], 1).pdf(2.5).mean()))

    @staticmethod
    def numpyro() -> float:
        import jax
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import TraceEnum_ELBO

        def model():
            z = numpyro.sample("z", dist.DiscreteUniform(1, 3), infer={"enumerate": "parallel"})
            numpyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=2.5)

        def guide():
            pass

        elbo = TraceEnum_ELBO(max_plate_nesting=0)
        return jax.jit(lambda key: -elbo.loss(key, {}, model, guide))(jax.random.PRNGKey(0))


class BatchOfWisharts(Case):
    """The divergence of a batch of Wishart distributions."""

    title = "the KL divergence of a batch of Wisharts is not that of each"
    user = "takes the divergence of two pairs of Wishart distributions that are alike, in one call"
    known = "each alone: KL(Wishart(4, I) || Wishart(6, 2 I)) in two dimensions, E log det by quadrature"
    tolerance = 1e-6
    verdicts = {"torch": "wrong"}
    note = "The generic rule of exponential families adds one term up over the batch. A batch of one is right."

    @staticmethod
    def exact() -> list[float]:
        """Return the mean log ratio of the densities of W = Wishart(4, I), from E log det W and E tr W, twice."""
        from scipy.stats import chi2, wishart

        # det W is a product of chi-squares with 4 and 3 degrees of freedom, and E tr W = 8.
        log_det = sum(chi2(degrees).expect(np.log) for degrees in (4, 3))
        at = np.eye(2)
        constant = wishart(4, np.eye(2)).logpdf(at) - wishart(6, 2 * np.eye(2)).logpdf(at) + 0.5 * 2 - 0.25 * 2
        each = constant + (0.5 - 1.5) * log_det - 0.5 * 8 + 0.25 * 8
        return [float(each), float(each)]

    @staticmethod
    def torch() -> list[float]:
        import torch
        from torch.distributions import Wishart, kl_divergence

        identity = torch.eye(2).expand(2, 2, 2)
        q, p = Wishart(torch.full((2,), 4.0), identity), Wishart(torch.full((2,), 6.0), 2 * identity)
        return kl_divergence(q, p).tolist()


class NoiseOfWideData(Case):
    """The noise variance of PCA on data with more columns than rows."""

    title = "PCA.noise_variance_ of wide data is not that of probabilistic PCA, nor is score() its likelihood"
    user = "fits one component to three rows of four columns, and asks for the noise variance"
    known = "Tipping and Bishop (1999), eq. 8: the mean of the D - d discarded eigenvalues"
    tolerance = 1e-10
    verdicts = {"sklearn": "wrong"}
    note = (
        "The sum is divided by min(N, D) - d, not by D - d: the eigenvalues that are zero are left out. Chosen in"
        " scikit-learn/scikit-learn#9108 with the remark that wide data need another look. Its eigenvalues are those"
        " of the covariance with N - 1, as is the exact value here."
    )

    @staticmethod
    def exact() -> float:
        """Return the mean of the three smaller eigenvalues."""
        values = np.linalg.eigvalsh(np.cov([[1, 0, 0, 2], [0, 3, 1, 0], [2, 1, 4, 0]], rowvar=False))
        return float(values[:3].mean())

    @staticmethod
    def sklearn() -> float:
        from sklearn.decomposition import PCA

        return PCA(1).fit([[1, 0, 0, 2], [0, 3, 1, 0], [2, 1, 4, 0]]).noise_variance_


class ErrorOfADeviation(Case):
    """The Monte Carlo error of the standard deviation of draws."""

    title = "the Monte Carlo error of a standard deviation is refused where numba is installed"
    user = "asks for mcse(draws, method='sd') of two chains"
    known = "the delta method: sqrt(Var((x - mean)^2) / ess) / (2 sd), the ess ArviZ's own"
    tolerance = 1e-12
    verdicts = {"arviz": "raises"}
    note = (
        "Where numba can be imported, ArviZ 0.23 makes a float of an array of one number, which NumPy 2.4 refuses."
        " Without numba, and after arviz.Numba.disable_numba(), it is right; arviz.summary is right with it, too."
    )

    @staticmethod
    def exact() -> float:
        """Return the error by the delta method."""
        import arviz as az

        draws = np.sin(np.arange(200.0) ** 2).reshape(2, 100)
        squared = (draws - draws.mean()) ** 2
        return float(np.sqrt(squared.var() / az.ess(squared, method="mean")) / (2.0 * draws.std()))

    @staticmethod
    def arviz() -> float:
        import arviz as az

        return float(az.mcse(np.sin(np.arange(200.0) ** 2).reshape(2, 100), method="sd"))
