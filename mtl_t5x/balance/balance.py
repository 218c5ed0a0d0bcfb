"""Which method weighs the tasks' losses, and how: what gin files call.

from mtl_t5x.balance import balance
BALANCE = @balance.UPGrad()
balance.Balance.applied = "exact"
"""

from __future__ import annotations

import dataclasses

from mtl_t5x.balance.aligned_mtl import AlignedMTL as AlignedMTL
from mtl_t5x.balance.cagrad import CAGrad as CAGrad
from mtl_t5x.balance.con_fig import ConFIG as ConFIG
from mtl_t5x.balance.db_mtl import DBMTL as DBMTL
from mtl_t5x.balance.dualproj import DualProj as DualProj
from mtl_t5x.balance.dynamic_weight_average import DynamicWeightAverage as DynamicWeightAverage
from mtl_t5x.balance.fairgrad import FairGrad as FairGrad
from mtl_t5x.balance.famo import FAMO as FAMO
from mtl_t5x.balance.geometric_mean import GeometricMean as GeometricMean
from mtl_t5x.balance.gradnorm import GradNorm as GradNorm
from mtl_t5x.balance.gradvac import GradVac as GradVac
from mtl_t5x.balance.imtl_g import IMTLG as IMTLG
from mtl_t5x.balance.imtl_l import IMTLL as IMTLL
from mtl_t5x.balance.krum import Krum as Krum
from mtl_t5x.balance.method import Method
from mtl_t5x.balance.mgda import MGDA as MGDA
from mtl_t5x.balance.modo import MoDo as MoDo
from mtl_t5x.balance.nash_mtl import NashMTL as NashMTL
from mtl_t5x.balance.pcgrad import PCGrad as PCGrad
from mtl_t5x.balance.random_weights import RandomWeights as RandomWeights
from mtl_t5x.balance.sdmgrad import SDMGrad as SDMGrad
from mtl_t5x.balance.smooth_tchebycheff import SmoothTchebycheff as SmoothTchebycheff
from mtl_t5x.balance.uncertainty import Uncertainty as Uncertainty
from mtl_t5x.balance.upgrad import UPGrad as UPGrad
from mtl_t5x.gradients import one_pass


@dataclasses.dataclass(frozen=True)
class Balance:
    """How the tasks' gradients of the shared parameters are weighted; every task's own parameters
    always get its full gradient.

    Attributes:
      method: one of those above, which acts at every step; None: the gradients are summed.
      applied: "lagged": the weights that a step measures are those of the next one, in one pass
        (the first step's are 1). "exact": of the step itself.
      parameters: a regular expression of the names of the parameters whose gradients' Gram matrix
        the method acts by; of those that all tasks share.
      floor: the least size of a lagged weight over their mean size: a task of weight 0 would never
        be measured again.
      keep_gradients: how an exact step is made: by one pass that keeps all tasks' gradients of the
        shared parameters, K times their memory, over several devices K / devices times; else by a
        second backward pass.
    """

    method: Method | None = None
    applied: str = "lagged"
    parameters: str = one_pass.ENCODER
    floor: float = 1e-3
    keep_gradients: bool = False

    def __post_init__(self):
        if self.applied not in ("lagged", "exact"):
            raise ValueError(
                f"balance.Balance.applied = {self.applied!r}: it must be 'lagged' or 'exact'"
            )
        if not 0 < self.floor < 1:
            raise ValueError(
                f"balance.Balance.floor = {self.floor}: it must be between 0 and 1, as 1e-3"
            )
        if self.keep_gradients and self.applied == "lagged":
            raise ValueError(
                "balance.Balance.keep_gradients is for exact steps: set balance.Balance.applied = "
                '"exact", or leave it out'
            )

    @property
    def name(self) -> str:
        """The method as the user calls it."""
        return f"balance.{type(self.method).__name__}"
