"""Butcher tableaus of explicit Runge-Kutta methods, as data.

One step from `(t, y)` over `dt` with `s` stages:

    k_i = f(t + c_i dt, y + dt * sum_{j<i} a_ij k_j),        y_1 = y + dt * sum_i b_i k_i,
    error = dt * sum_i e_i k_i,                              e = b - b_hat,

with `b_hat` the weights of an embedded method of lower order. Between the ends the solution is
`y(theta) = y + dt * sum_i b_i(theta) k_i`, `theta` in [0, 1], where such weights are known; else
the cubic Hermite polynomial through both values and both slopes serves.

Sources: Hairer, Norsett, Wanner, *Solving Ordinary Differential Equations I*, 2nd ed. (heun, rk4,
dopri5, dopri8); Bogacki and Shampine 1989 (bosh3); Shampine 1986 (dopri5's error weights and
interpolant); Tsitouras 2011 (tsit5). The tests check every order condition on these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TABLEAUS", "Tableau"]

Row = tuple[float, ...]


@dataclass(frozen=True)
class Tableau:
    """Coefficients of one explicit Runge-Kutta method with `s` stages.

    Attributes:
        name: the method's usual name.
        order: order of the solution that is propagated.
        c: times of the stages as fractions of the step, (s,); `c[0]` is 0.
        a: row i holds the i weights of the earlier stages, lower triangular.
        b: weights of the solution, (s,).
        error: `b - b_hat`, (s,); empty where there is no embedded method.
        error_order: local order of the error estimate: it shrinks as `dt ** error_order`.
        interpolant: row i holds the coefficients of theta, theta^2, ... in `b_i(theta)`; empty
            where only the Hermite polynomial is to be had.
    """

    name: str
    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row
    error: Row = ()
    error_order: int = 0
    interpolant: tuple[Row, ...] = ()

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """Whether the last stage is the first stage of the next step."""
        return self.stages > 1 and self.c[-1] == 1 and (*self.a[-1], 0.0) == self.b

    @property
    def evaluations(self) -> int:
        """Field evaluations per accepted step after the first."""
        return self.stages - 1 if self.fsal else self.stages


def _error(b: Row, b_hat: Row) -> Row:
    return tuple(x - y for x, y in zip(b, b_hat, strict=True))


EULER = Tableau("euler", 1, (0.0,), ((),), (1.0,))
MIDPOINT = Tableau("midpoint", 2, (0.0, 1 / 2), ((), (1 / 2,)), (0.0, 1.0))
HEUN = Tableau(
    "heun",
    2,
    (0.0, 1.0),
    ((), (1.0,)),
    (1 / 2, 1 / 2),
    error=_error((1 / 2, 1 / 2), (1.0, 0.0)),
    error_order=2,
)
_BOSH3_B: Row = (2 / 9, 1 / 3, 4 / 9, 0.0)
BOSH3 = Tableau(
    "bosh3",
    3,
    (0.0, 1 / 2, 3 / 4, 1.0),
    ((), (1 / 2,), (0.0, 3 / 4), _BOSH3_B[:3]),
    _BOSH3_B,
    error=_error(_BOSH3_B, (7 / 24, 1 / 4, 1 / 3, 1 / 8)),
    error_order=3,
)
RK4 = Tableau(
    "rk4",
    4,
    (0.0, 1 / 2, 1 / 2, 1.0),
    ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
)
_DOPRI5_B: Row = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
# Shampine's embedded weights, whose error is 2/3 of that of the published pair; torchdiffeq's too.
_DOPRI5_B_HAT: Row = (
    1951 / 21600,
    0.0,
    22642 / 50085,
    451 / 720,
    -12231 / 42400,
    649 / 6300,
    1 / 60,
)
DOPRI5 = Tableau(
    "dopri5",
    5,
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        _DOPRI5_B[:6],
    ),
    _DOPRI5_B,
    error=_error(_DOPRI5_B, _DOPRI5_B_HAT),
    error_order=5,
    interpolant=(
        (
            1.0,
            -8048581381 / 2820520608,
            8663915743 / 2820520608,
            -12715105075 / 11282082432,
        ),
        (0.0, 0.0, 0.0, 0.0),
        (
            0.0,
            131558114200 / 32700410799,
            -68118460800 / 10900136933,
            87487479700 / 32700410799,
        ),
        (
            0.0,
            -1754552775 / 470086768,
            14199869525 / 1410260304,
            -10690763975 / 1880347072,
        ),
        (
            0.0,
            127303824393 / 49829197408,
            -318862633887 / 49829197408,
            701980252875 / 199316789632,
        ),
        (
            0.0,
            -282668133 / 205662961,
            2019193451 / 616988883,
            -1453857185 / 822651844,
        ),
        (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
)
_TSIT5_B: Row = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
    0.0,
)
TSIT5 = Tableau(
    "tsit5",
    5,
    (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    (
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.02826905039406838,
        ),
        _TSIT5_B[:6],
    ),
    _TSIT5_B,
    # The published table has the sign of the last weight wrong: the seven must sum to 0.
    error=(
        0.001780011052225777,
        0.0008164344596567469,
        -0.007880878010261995,
        0.1447110071732629,
        -0.5823571654525552,
        0.45808210592918697,
        -1 / 66,
    ),
    error_order=5,
    interpolant=(
        (1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
        (0.0, 0.13169999999999998, -0.2234, 0.1017),
        (0.0, 3.930296236894751, -5.941033872131505, 2.490627285651253),
        (0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
        (0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
        (0.0, -27.896526289197286, 65.09189467479368, -34.87065786149661),
        (0.0, 1.5, -4.0, 2.5),
    ),
)
_DOPRI8_B: Row = (
    14005451 / 335480064,
    0.0,
    0.0,
    0.0,
    0.0,
    -59238493 / 1068277825,
    181606767 / 758867731,
    561292985 / 797845732,
    -1041891430 / 1371343529,
    760417239 / 1151165299,
    118820643 / 751138087,
    -528747749 / 2220607170,
    1 / 4,
)
_DOPRI8_B_HAT: Row = (
    13451932 / 455176623,
    0.0,
    0.0,
    0.0,
    0.0,
    -808719846 / 976000145,
    1757004468 / 5645159321,
    656045339 / 265891186,
    -3867574721 / 1518517206,
    465885868 / 322736535,
    53011238 / 667516719,
    2 / 45,
    0.0,
)
DOPRI8 = Tableau(
    "dopri8",
    8,
    (
        0.0,
        1 / 18,
        1 / 12,
        1 / 8,
        5 / 16,
        3 / 8,
        59 / 400,
        93 / 200,
        5490023248 / 9719169821,
        13 / 20,
        1201146811 / 1299019798,
        1.0,
        1.0,
    ),
    (
        (),
        (1 / 18,),
        (1 / 48, 1 / 16),
        (1 / 32, 0.0, 3 / 32),
        (5 / 16, 0.0, -75 / 64, 75 / 64),
        (3 / 80, 0.0, 0.0, 3 / 16, 3 / 20),
        (
            29443841 / 614563906,
            0.0,
            0.0,
            77736538 / 692538347,
            -28693883 / 1125000000,
            23124283 / 1800000000,
        ),
        (
            16016141 / 946692911,
            0.0,
            0.0,
            61564180 / 158732637,
            22789713 / 633445777,
            545815736 / 2771057229,
            -180193667 / 1043307555,
        ),
        (
            39632708 / 573591083,
            0.0,
            0.0,
            -433636366 / 683701615,
            -421739975 / 2616292301,
            100302831 / 723423059,
            790204164 / 839813087,
            800635310 / 3783071287,
        ),
        (
            246121993 / 1340847787,
            0.0,
            0.0,
            -37695042795 / 15268766246,
            -309121744 / 1061227803,
            -12992083 / 490766935,
            6005943493 / 2108947869,
            393006217 / 1396673457,
            123872331 / 1001029789,
        ),
        (
            -1028468189 / 846180014,
            0.0,
            0.0,
            8478235783 / 508512852,
            1311729495 / 1432422823,
            -10304129995 / 1701304382,
            -48777925059 / 3047939560,
            15336726248 / 1032824649,
            -45442868181 / 3398467696,
            3065993473 / 597172653,
        ),
        (
            185892177 / 718116043,
            0.0,
            0.0,
            -3185094517 / 667107341,
            -477755414 / 1098053517,
            -703635378 / 230739211,
            5731566787 / 1027545527,
            5232866602 / 850066563,
            -4093664535 / 808688257,
            3962137247 / 1805957418,
            65686358 / 487910083,
        ),
        (
            403863854 / 491063109,
            0.0,
            0.0,
            -5068492393 / 434740067,
            -411421997 / 543043805,
            652783627 / 914296604,
            11173962825 / 925320556,
            -13158990841 / 6184727034,
            3936647629 / 1978049680,
            -160528059 / 685178525,
            248638103 / 1413531060,
            0.0,
        ),
    ),
    _DOPRI8_B,
    error=_error(_DOPRI8_B, _DOPRI8_B_HAT),
    error_order=8,
)
TABLEAUS: dict[str, Tableau] = {
    tableau.name: tableau for tableau in (EULER, MIDPOINT, HEUN, BOSH3, RK4, DOPRI5, TSIT5, DOPRI8)
}
