"""The solver HiGHS behind the exact search: the one place that knows it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from longpipe.errors import PlanError
from longpipe.plan._exact_model import Model

if TYPE_CHECKING:
    import highspy
    from highspy.highs import HighsCallbackEvent

Hear = Callable[[float, float, float], None]  # seconds, best value so far, bound


class Answer(NamedTuple):
    """What the solver found out about a model."""

    values: list[float] | None  # of the columns, in the best solution
    bound: float  # no solution is less; infinite: there is none


def solver() -> "highspy.Highs":
    """A fresh, silent HiGHS; PlanError where it is not installed."""
    try:
        # Not at the top: an optional package, which brings NumPy into the half that needs neither.
        import highspy
    except ImportError as error:
        raise PlanError(
            "the exact search needs the solver HiGHS: pip install 'longpipe[exact]'"
        ) from error

    class Quiet(highspy.Highs):
        def enableCallbacks(self) -> None:  # the constructor calls it, and it prints a banner
            self.setOptionValue("log_to_console", False)
            super().enableCallbacks()  # type: ignore[no-untyped-call]

    return Quiet()  # type: ignore[no-untyped-call]


def ask(highs: "highspy.Highs", model: Model, gap: float, limit_s: float, hear: Hear) -> Answer:
    """Minimise column 0 of the model until bound and value are `gap` apart, or time is up."""
    import highspy  # as in `solver`

    for lower, upper, whole in model.columns:
        highs.addVar(lower, upper)
        if whole:
            highs.changeColIntegrality(highs.getNumCol() - 1, highspy.HighsVarType.kInteger)
    highs.changeColCost(0, 1.0)
    for line in model.rows:
        columns, factors = list(line.factors), list(line.factors.values())
        highs.addRow(-line.constant, highspy.kHighsInf, len(columns), columns, factors)
    highs.setOptionValue("time_limit", float(limit_s))
    highs.setOptionValue("mip_rel_gap", 0.0)
    highs.setOptionValue("mip_abs_gap", gap)

    def tell(event: "HighsCallbackEvent") -> None:
        told = event.data_out
        hear(told.running_time, told.mip_primal_bound, told.mip_dual_bound)

    highs.cbMipLogging.subscribe(tell)
    highs.HandleKeyboardInterrupt = True  # Ctrl-C ends the search with what it has
    highs.solve()
    info = highs.getInfo()
    none = (
        highspy.HighsModelStatus.kInfeasible,
        highspy.HighsModelStatus.kUnboundedOrInfeasible,  # every column is bounded
    )
    if highs.getModelStatus() in none:
        return Answer(None, float("inf"))
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    values = list(highs.getSolution().col_value) if found else None
    return Answer(values, info.mip_dual_bound)
