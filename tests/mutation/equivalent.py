"""Mutants that no test can notice, each with its reason: (file, old, new), as ``run.py --list`` shows them."""

_SHUFFLE = "if first + count == self.per_epoch:"
_SHUFFLE_WHY = (
    "only when the next epoch's order is made: every call starts with the order that it needs, made then if need be"
)
_PIXELS = "for part in prange(-(-y.shape[0] // 64)):  # 64 columns of a row of pixels are on one cache line or two"
_COLUMN = "if out.strides[0] == out.itemsize and out.shape[1] > 1:"
_VERDICT = "verdicts[full_name] = Verdict(error <= FLOAT32_TOLERANCE, error, text)"
_LEVELS = 'levels = islice(run_levels(0, backend.select("numpy"), real=False), LEVELS.index("Adam") + 1)'

_PATIENCE = "_PATIENCE = 1.0  # seconds: loading compiled kernels takes less, compiling them more"
_PIECE = "_PIECE = 1000  # letters in one write: at most 4,000 bytes, which a pipe that is ready takes without waiting"
_MASK = "mask = xp.asarray((rng.permutation(N * O).reshape(N, O) >= 4) / (1.0 - RATE))  # 4 of 21 dropped"

EQUIVALENT: dict[tuple[str, str, str], str] = {
    ("npgan/nn/ops.py", "positive = z.real > 0", "positive = (z.real >= 0)"): (
        "at z = 0 both forms of max(z, 0) + log(1 + e^−|z|) have the same value and the same derivative"
    ),
    ("npgan/engines/base.py", _SHUFFLE, "if (first + count != self.per_epoch):"): _SHUFFLE_WHY,
    ("npgan/engines/base.py", _SHUFFLE, "if (first - count) == self.per_epoch:"): _SHUFFLE_WHY,
    ("npgan/engines/cpu/kernels.py", _PIXELS, _PIXELS.replace("-(-y.shape[0] // 64)", "-((-y.shape[0] * 64))")): (
        "slower only: the turns past the last column have nothing to do"
    ),
    (
        "npgan/inspector/proof.py",
        _VERDICT,
        _VERDICT.replace("error <= FLOAT32_TOLERANCE", "(error < FLOAT32_TOLERANCE)"),
    ): ("a difference only for an error that is 1e-3 to the last bit, which rounding decides"),
    ("npgan/engines/cpu/gemm.py", _COLUMN, _COLUMN.replace("out.shape[1] > 1", "(out.shape[1] >= 1)")): (
        "a single column lies by rows and by columns alike: either loop multiplies into it, and both are right to rounding"
    ),
    ("npgan/inspector/proof.py", _LEVELS, _LEVELS.replace("real=False", "real=True")): (
        "slower only: results of the levels op and Adam alone are taken, and the real networks are in none of the two"
    ),
    (
        "npgan/gradcheck/maths.py",
        _MASK,
        _MASK.replace("(rng.permutation(N * O).reshape(N, O) >= 4)", "((rng.permutation(N * O).reshape(N, O) > 4))"),
    ): ("another mask, with one element more that is dropped: dropout is checked with it as well as with this one"),
    ("npgan/engines/__init__.py", _PATIENCE, _PATIENCE.replace("1.0", "2.0")): (
        "when a person is told that kernels are compiled, a second sooner or later; no test waits for that"
    ),
    ("npgan/nn/ops.py", "positive = x.real > 0", "positive = (x.real >= 0)"): (
        "at x = 0 both forms of the sigmoid are 1/2, with the same derivative"
    ),
    ("npgan/runs/output.py", _PIECE, _PIECE.replace("1000", "1001")): (
        "4,004 bytes are within the 4,096 that a pipe takes in one piece, too"
    ),
}
