from __future__ import annotations

from sim.results.sentences import Sentence, Verdict


def test_words_stand_apart_from_numbers() -> None:
    one = Sentence("limit", "{what} take {share:.0%}.", {"what": "{odd} names", "share": 0.25}, "seats")
    assert str(one) == "{odd} names take 25%."
    assert one.as_dict()["numbers"] == {"what": "{odd} names", "share": 0.25}
    assert repr(Verdict([one, one])) == "{odd} names take 25%.\n{odd} names take 25%."
    assert Verdict([Sentence("run", "<b>")])._repr_html_() == "<p>&lt;b&gt;</p>\n"
