"""CgOperator's block variant ends after ten steps for each right-hand side.

Documented: CgOperator, maxiter: "Maximum number of iterations. If None, defaults to 10*len(b)", b being the
right-hand side of a system; use_block_cg: "use block variant of conjugate gradient method, which solves
several right hand sides simultaneously".
"""

import torch
from pydvl.influence.torch.operator import CgOperator, MatrixOperator

LIBRARY = "pyDVL"
SIZE = 50

matrix = torch.logspace(0, -3, SIZE, dtype=torch.float64).diag()
b = torch.ones(1, SIZE, dtype=torch.float64)

# It does warn that the tolerance was not reached.
x = CgOperator(MatrixOperator(matrix), rtol=1e-4, atol=0.0, use_block_cg=True).apply(b)

# _solve_pbcg has len(rhs) * 10, rhs holding right-hand sides as rows; one by one it would be 10 · SIZE = 500,
# with which the residual is far below rtol.
expected = 1e-4
got = float((b - x @ matrix).norm() / b.norm())
differs = got > 10 * expected
print(f"expected a relative residual of at most {expected:.3g}, got {got:.3g}")
