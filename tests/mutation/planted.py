"""Mutants planted by hand: bugs that a person could make, and those that the tests once did not notice."""

from __future__ import annotations

from pathlib import Path

from mutants import Mutant

PLANTED = [  # (file in npgan, old text that is there exactly once, new text)
    # the maths
    ("nn/ops.py", "BCE_EPSILON = 1.1920929e-07", "BCE_EPSILON = 1e-07"),
    ("nn/ops.py", "np.log(1.0 - p + epsilon))", "np.log(1.0 - p + 2.0 * epsilon))"),
    ("nn/ops.py", "- target / (p + epsilon)) / p.shape[0]", "- target / (p + epsilon))"),
    ("nn/ops.py", "np.where(x.real > 0, dy, slope * dy)", "np.where(x.real >= 0, dy, slope * dy)"),
    ("nn/ops.py", "return dy * mask", "return dy * (mask > 0)"),
    ("nn/ops.py", "e = np.exp(x - x.real.max(axis=1, keepdims=True))", "e = np.exp(x)"),
    ("nn/ops.py", "winner = np.argmax(", "winner = np.argmin("),
    ("nn/ops.py", "return 2.0 * (y - target) / y.size", "return 2.0 * (y - target) / len(y)"),
    ("nn/optim.py", "(np.sqrt(self.v_hat()) + self.epsilon)", "np.sqrt(self.v_hat() + self.epsilon)"),
    ("nn/optim.py", "return self.m / (1.0 - self.beta1**self.step)", "return self.m"),
    ("nn/optim.py", "(1.0 - self.beta2) * gradients**2", "(1.0 - self.beta1) * gradients**2"),
    ("nn/layers.py", "math.sqrt(6.0 / (self.in", "math.sqrt(5.9 / (self.in"),
    ("nn/layers.py", "return SITES * forward_pass + self.site", "return self.site"),  # both passes of a step share masks
    ("nn/layers.py", "return SITES * forward_pass + self.site", "return 15 * forward_pass + self.site"),
    ("nn/layers.py", "bits.reshape(x.shape) >= self.threshold", "bits.reshape(x.shape) > self.threshold"),
    ("nn/layers.py", "round(rate * 65536)", "int(rate * 65536)"),
    # what layers and networks are besides their maths
    ("modules.py", "SITES = 16 ", "SITES = 32 "),
    ("modules.py", "layer.site = number", "layer.site = 0"),
    ("modules.py", "layer.initialize(seed, site + place)", "layer.initialize(seed, site)"),
    ("modules.py", "layer.parameters[...] = xp.asarray(parameters)", "pass"),
    ("modules.py", "layer.placed = True", "pass"),
    ("expect.py", "if low < 0 or high >= classes", "if high >= classes"),
    ("expect.py", 'getattr(output, "shape", None) != shape or not output.size', "not output.size"),
    ("expect.py", "(target >= 0) & (target <= 1)", "(target >= 0) & (target <= 2)"),
    ("saved.py", "net.tensors[name][...] = xp.asarray(tensor)", "pass"),
    # random numbers
    ("nn/philox.py", "_ROUNDS = 10", "_ROUNDS = 7"),
    ("nn/philox.py", "astype(dtype) + 0.5", "astype(dtype) + 0.0"),  # a uniform draw that can be 0
    ("nn/philox.py", "astype(dtype) + 0.5", "astype(dtype) + 0.9"),
    ("nn/philox.py", "u += 2.0**-33", "u += 0.0"),  # log 0
    ("nn/philox.py", "Stream.SHUFFLE, epoch, 0, count", "Stream.SHUFFLE, 0, 0, count"),  # one shuffle for all epochs
    ("nn/philox.py", "    EVAL = 4", "    EVAL = 2"),
    ("nn/philox.py", "(seed & _LOW_32, seed >> 32)", "(seed & _LOW_32, 0)"),
    # the training step
    ("gan.py", "p[:b].mean(), p[b:].mean(), *norms", "p[b:].mean(), p[:b].mean(), *norms"),
    ("gan.py", "for net in (d, g))", "for net in (g, d))"),
    ("gan.py", "LATENT_D, LATENT_G = 0, 1", "LATENT_D, LATENT_G = 0, 0"),
    ("gan.py", "PASS_D, PASS_G = 0, 1", "PASS_D, PASS_G = 0, 0"),
    ("gan.py", "DISCRIMINATOR_SITE = 1000", "DISCRIMINATOR_SITE = 0"),
    ("gan.py", "config.adam_epsilon", "1e-8"),
    ("gan.py", "config.beta2", "0.999"),
    ("gan.py", "config.lr_g", "config.lr_d"),
    ("gan.py", "if config.dropout_in_g_step else None", "if True else None"),
    ("gan.py", "target[:b] = 1.0 -", "target[b:] = 1.0 -"),
    ("gan.py", "b if pairs else config.batch_size)", "b)"),
    ("gan.py", "b if pairs else config.batch_size)", "config.batch_size)"),
    ("gan.py", "target_g = np.ones_like(output_g)", "target_g = np.zeros_like(output_g)"),
    ("gan.py", "target_g[: -len(fake)] = 0.0", "target_g[: -len(fake)] = 1.0"),
    ("gan.py", "np.concatenate([real, fake]) if pairs", "np.concatenate([fake, real]) if pairs"),
    ("gan.py", "np.full_like(output, config.r2 / b)", "np.full_like(output, config.r1 / b)"),
    ("gan.py", "rate[:b] = config.r1 / b", "rate[:b] = config.r1 / (2 * b)"),
    ("gan.py", "average += (1.0 - kept", "average += (kept"),
    ("gan.py", "(1.0 + step) / (10.0 + step)", "(2.0 + step) / (10.0 + step)"),
    ("gan.py", "self.average or self.generator", "self.generator"),
    ("nn/network.py", "u = rate * dx", "u = dx"),
    ("nn/network.py", "0.5 * np.sum(rate * dx * dx)", "0.5 * np.sum(dx * dx)"),
    ("nn/layers.py", "self.dweight += dweight", "self.dweight[...] = dweight"),
    ("nn/ops.py", "[dd, -dd]", "[dd, dd]"),
    ("engines/base.py", "math.pi * epoch / config.epochs", "math.pi * epoch"),
    ("engines/schedule.py", "config.r1 / rows, config.r2 / rows", "config.r2 / rows, config.r1 / rows"),
    ("engines/schedule.py", "self.pass_g.target[-batch:] = 0.0, 1.0", "self.pass_g.target[-batch:] = 0.0, 0.0"),
    ("engines/schedule.py", "    k.copy(self.images[2 * rows :]", "    k.copy(self.images[: rows]"),
    ("engines/cpu/kernels.py", "kept_of_average(p.ema, t - 1)", "kept_of_average(p.ema, t)"),
    ("engines/cpu/kernels.py", "u_row[n] += c[n] * x_row[n]", "u_row[n] += x_row[n]"),
    ("engines/cpu/kernels.py", "row[0] += step.penalty.value.sum()", "pass"),
    ("runs/health.py", "< DEAD_ITERATIONS", "<= DEAD_ITERATIONS"),
    ("runs/health.py", "values.loss_g > CEILING - 1.0", "values.loss_g > CEILING - 9.0"),
    ("runs/resume.py", 'saved.lr_schedule == "cosine"', 'saved.lr_schedule == "constant"'),
    ("evaluation/metrics.py", "inside_of / (k * len(features))", "inside_of / len(features)"),
    ("evaluation/metrics.py", "inside.any(axis=0)", "inside.all(axis=0)"),
    ("inspector/trace.py", "if self.recorder.step == D_STEP else", "if False else"),
    ("gan.py", "d.backward_input(loss", "d.backward(loss"),
    ("config.py", "batch_size: int = _integer(128,", "batch_size: int = _integer(64,"),
    ("config.py", "beta2: float = _share(0.999,", "beta2: float = _share(0.99,"),
    # data
    ("data/batches.py", "return -(-count // batch_size)", "return count // batch_size"),  # the last batch dropped
    ("data/batches.py", "np.divide(pixels, 127.5,", "np.divide(pixels, 128,"),
    ("data/mnist.py", "hashlib.sha256(data.images)", "hashlib.sha256(data.images[:1])"),
    ("data/mnist.py", "data.labels[:count])", "data.labels[-count:])"),
    ("data/mnist.py", 'hexdigest() != expected', 'hexdigest() == ""'),
    ("data/idx.py", 'if stream.read(1):', 'if False:'),
    # engines
    ("engines/base.py", "philox.permutation(self.config.seed, epoch, count", "philox.permutation(self.config.seed, 0, count"),
    ("engines/base.py", "self.config.seed, epoch, order.size", "self.config.seed, 0, order.size"),
    ("engines/base.py", "state.optimizer_d.step = state.optimizer_g.step = state.step", "pass"),
    ("engines/reference.py", "p[:b].mean(), p[b:].mean(), *norms", "p[b:].mean(), p[:b].mean(), *norms"),
    ("engines/reference.py", "(step.squares_d, step.squares_g)", "(step.squares_g, step.squares_d)"),
    ("engines/schedule.py", "PASS_G if config.dropout_in_g_step", "PASS_D if config.dropout_in_g_step"),
    ("engines/schedule.py", "layer.slope != config.leaky_slope", "layer.slope < config.leaky_slope"),
    ("engines/cpu/kernels.py", "row[2:4] = p[:b].mean(), p[b:].mean()", "row[2:4] = p[b:].mean(), p[:b].mean()"),
    ("engines/cpu/kernels.py", "(step.squares_d, step.squares_g)", "(step.squares_g, step.squares_d)"),
    ("engines/cpu/kernels.py", "p.target, BCE_EPSILON, p.output_dz", "p.target, 1e-5, p.output_dz"),
    ("engines/cpu/kernels.py", "*betas, o.epsilon, rate", "*betas, 1e-8, rate"),
    ("engines/cpu/philox.py", "for _ in range(10):", "for _ in range(9):"),
    ("engines/cpu/philox.py", "np.float32(2.0**-33)\n    u2", "np.float32(0)\n    u2"),
    # runs
    ("runs/checkpoint.py", 'm": optimizer.m, f"{name}.adam.v": optimizer.v', 'm": optimizer.v, f"{name}.adam.v": optimizer.m'),
    ("runs/checkpoint.py", "FORMAT = 1", "FORMAT = 2"),
    ("runs/checkpoint.py", "state.step = state.optimizer_g.step = state.optimizer_d.step =", "state.step ="),
    ("files.py", "os.fsync(file.fileno())", "pass"),
    ("files.py", "os.fsync(folder)", "pass"),
    ("runs/folder.py", "os.fsync(file.fileno())", "pass"),
    ("runs/folder.py", "_flush(self.metrics_file)", "pass"),
    ("runs/health.py", "SURE = 0.98 ", "SURE = 0.9 "),
    ("runs/health.py", "config.adam_epsilon * parameters_g**0.5", "config.adam_epsilon * parameters_g"),
    ("runs/train.py", "totals[:] = 0.0", "pass"),
    ("runs/train.py", "if fingerprint(data) !=", 'if "" =='),
    ("runs/train.py", "totals / per_epoch, seconds", "totals / count, seconds"),
    # evaluation
    ("evaluation/metrics.py", "NEIGHBORS = 3 ", "NEIGHBORS = 4 "),
    ("evaluation/metrics.py", "(float(precision), float(recall))", "(float(recall), float(precision))"),
    ("evaluation/metrics.py", "SURE = 0.95 ", "SURE = 0.5 "),
    ("evaluation/metrics.py", "np.percentile(distances, 1)", "np.percentile(distances, 99)"),
    ("evaluation/parzen.py", "ll.std() / math.sqrt(len(ll))", "ll.std()"),
    ("evaluation/parzen.py", "log_likelihoods(test, model, (sigma,))", "log_likelihoods(validation, model, (sigma,))"),
    ("evaluation/parzen.py", '"adversarial nets": (225.0', '"adversarial nets": (224.0'),
    ("evaluation/distances.py", "part[np.arange(len(part), like=part), itself[rows]] = np.inf", "pass"),
    ("evaluation/classifier.py", "adam.lr = recipe.lr * (1.0 - step / (recipe.epochs * per_epoch))", "adam.lr = recipe.lr"),
    ("evaluation/classifier.py", "% (2 * recipe.shift + 1)", "% (2 * recipe.shift)"),
    # the inspector
    ("inspector/trace.py", "change / weight if weight", "gradient / weight if weight"),
    ("inspector/trace.py", "np.sum(self.p_d[b:] <= 0.5)", "np.sum(self.p_d[b:] > 0.5)"),
    ("inspector/trace.py", "np.sum(self.p_d[:b] > 0.5)", "np.sum(self.p_d[:b] > 0.9)"),
    ("inspector/history.py", '"D(real)": float(np.mean(trace.p_d[:b]))', '"D(real)": float(np.mean(trace.p_d[b:]))'),
    ("inspector/history.py", "if u.ratio == u.ratio", "if True"),
    ("inspector/figures.py", "SATURATED = 0.99 ", "SATURATED = 0.9 "),
    ("inspector/figures.py", "return 2 * n * i * o + n * o", "return n * i * o + n * o"),
    ("inspector/proof.py", "FLOAT32_TOLERANCE = 1e-3 ", "FLOAT32_TOLERANCE = 1.0 "),
    # the gradient checker
    ("gradcheck/check.py", "tolerance: float = 1e-12  # of", "tolerance: float = 1e-3  # of"),
    ("gradcheck/check.py", "tolerance: float = 1e-12\n", "tolerance: float = 1e-3\n"),
    ("gradcheck/check.py", "CENTRAL_TOLERANCE = 1e-6", "CENTRAL_TOLERANCE = 1e-2"),
    ("gradcheck/check.py", "np.where(np.isnan(probes.error), np.inf,", "np.where(np.isnan(probes.error), 0.0,"),
    ("gradcheck/check.py", "(usable > tolerance).sum()", "(usable > 2.0 * tolerance).sum()"),
    ("gradcheck/check.py", "ULP = 2.0**-23", "ULP = 2.0**-10"),
    ("gradcheck/library.py", '"", tolerance or 1e-12,', '"", tolerance or 1e-3,'),
    ("gradcheck/library.py", "rng, tolerance or 1e-10,", "rng, tolerance or 1e-3,"),
    ("gradcheck/networks.py", "TOLERANCE = 1e-10", "TOLERANCE = 1e-3"),
    ("gradcheck/maths.py", "rng, tolerance=1e-12,", "rng, tolerance=1e-3,"),
    ("gradcheck/methods.py", "_H_COMPLEX = 1e-20", "_H_COMPLEX = 1e-6"),
    ("gradcheck/methods.py", "(2.0 * h * size)", "(2.0 * h)"),
]  # fmt: skip


def planted(root: Path) -> tuple[list[Mutant], list[str]]:
    """The mutants, and what is stale: the source no longer has the old text, or has it twice."""
    mutants, stale = [], []
    for file, old, new in PLANTED:
        path = root / "npgan" / file
        source = path.read_text(encoding="utf-8") if path.exists() else ""
        if source.count(old) == 1:
            mutants.append(Mutant.made(f"npgan/{file}", "planted", source, source.replace(old, new)))
        else:
            stale.append(f"npgan/{file}: {old}")
    return mutants, stale
