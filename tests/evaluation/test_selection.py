from dmphn_jax.evaluation.selection import spread, su_frames_of


def test_a_limit_is_spread_evenly():
    assert spread(10, None) == spread(10, 10) == spread(10, 99) == list(range(10))
    assert spread(1111, 3) == [0, 370, 740]


def test_frames_that_su_et_al_score():
    names = [f"{video}/{frame:05d}" for frame in range(100) for video in "ba"]
    indices = su_frames_of(names)
    assert len(indices) == 60
    frames = [int(names[i].split("/")[1]) for i in indices if names[i][0] == "a"]
    assert frames[:3] == [1, 4, 7]
    assert frames[-1] == 96
