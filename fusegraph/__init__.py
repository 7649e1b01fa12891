"""fusegraph"""
from fusegraph.tensor import Tensor, elementwise
def asarray(x): return Tensor(x)
