"""The memory plan never lets two living buffers share a byte."""

from hypothesis import given
from hypothesis import strategies as st

from haqnas.codegen.plan import ALIGNMENT, Lifetime, plan_memory

LIFETIMES = st.lists(
    st.builds(
        lambda size, first, span: Lifetime(size, first, first + span),
        st.integers(1, 500),
        st.integers(0, 20),
        st.integers(0, 8),
    ),
    max_size=30,
)


@given(LIFETIMES)
def test_buffers_alive_together_do_not_overlap(lifetimes):
    plan = plan_memory(lifetimes)
    placed = list(zip(lifetimes, plan.offsets, strict=True))
    for i, (first, a) in enumerate(placed):
        assert a % ALIGNMENT == 0
        assert a + first.size_bytes <= plan.total_bytes
        for second, b in placed[:i]:
            if first.meets(second):
                assert a + first.size_bytes <= b or b + second.size_bytes <= a


@given(LIFETIMES)
def test_the_plan_needs_no_more_than_all_buffers_apart_and_no_less_than_those_alive(lifetimes):
    plan = plan_memory(lifetimes)
    apart = sum(-(-life.size_bytes // ALIGNMENT) * ALIGNMENT for life in lifetimes)
    alive = max(
        (sum(o.size_bytes for o in lifetimes if o.first <= t <= o.last) for t in range(30)), default=0
    )
    assert alive <= plan.total_bytes <= apart


def test_a_chain_reuses_memory():
    chain = [Lifetime(1000, i, i + 1) for i in range(10)]
    assert plan_memory(chain).total_bytes <= 2 * 1024
