from sim.validation.services.tables import TABLES, cases, left_out, published

RTX_4090 = "rtx4090_llama31_8b_tp1"


def test_every_published_row_is_expressed_or_counted_with_its_reason():
    counted = left_out()
    assert all(one.reason and 0 < one.rows <= one.of for one in counted)
    rows = sum(len(published(name)) for name in TABLES)
    expressed = sum(len(cases(section, whole=True)) for section in {one.section for one in TABLES.values()})
    assert expressed + sum(one.rows for one in counted) == rows
    assert len(published("trtllm_max_throughput")) == 853
    assert len(published("disaggregated")) == 148
    assert len(published("closed_loops")) == 1273


def test_a_sample_is_a_small_part_of_the_whole():
    for section in ("throughput", "pools", "closed-loops"):
        assert 5 < len(cases(section, whole=False)) < len(cases(section, whole=True)) / 8
