import inspect

import pytest

from pyterrier_merge.advice import COLLECTION_FIELDS, FLAGS, SYSTEM_FIELDS, in_fields, in_flags


@pytest.mark.parametrize(
    ("python", "fields", "flags"),
    [
        ("say pooling='mean' or another", "say pooling: mean or another", "say --pooling mean or another"),
        ("pass normalize=True, or False", "pass normalize: true, or False", "pass --normalize, or False"),
        ("normalize=False", "normalize: false", "--no-normalize"),
        ("max_length=600 is more", "max_length: 600 is more", "--max-length 600 is more"),
        ("pass max_length=...", "pass max_length: ...", "pass --max-length ..."),
        ("try dtype='float32', check", "try dtype: float32, check", "try --dtype float32, check"),
        ("or pass overwrite=True", "or pass overwrite=True", "or pass --overwrite"),
        ("use engine='pisa', which", "use engine: pisa, which", "use engine='pisa', which"),
        (
            "pass parameters={'normalize': False}, or",
            "pass parameters: {normalize: false}, or",
            "pass --parameter normalize=false, or",
        ),
        ("parameters={'density': ...}", "parameters: {density: ...}", "--parameter density=..."),
        ("(pool='judged')", "(collection: {pool: judged})", "(pool='judged')"),
        (
            "say get_collection('jqara', download=True) or set PYTERRIER_MERGE_DOWNLOAD=1;",
            "say collection: {name: jqara, download: true} or set PYTERRIER_MERGE_DOWNLOAD=1;",
            "say get_collection('jqara', download=True) or set PYTERRIER_MERGE_DOWNLOAD=1;",
        ),
        ("get_collection('jqara', path=FOLDER)", "collection: {name: jqara, path: FOLDER}", None),
        ("get_collection('hpo')", "collection: {name: hpo}", None),
        ("E5Encoder(model='m', dtype='float32') fails", None, None),  # how an object is written
        ("no file a/path='x'", None, None),
        ("density=0.5 is given twice", None, None),
    ],
)
def test_each_argument_is_said_as_the_reader_gives_it(python, fields, flags):
    assert in_fields(python) == (fields or python)
    assert in_flags(python) == (flags or python)


def test_the_fields_are_those_of_an_experiment():
    from pyterrier_merge.collections import _maker
    from pyterrier_merge.systems import KINDS, system_class

    names = ["local", "jqara", "miracl-ja", "trec-cds-2014", "trec-pm-2017", "scifact"]
    options = {option for name in names for option in inspect.signature(_maker(name)).parameters}
    assert options >= set(COLLECTION_FIELDS)
    assert {field for kind in KINDS for field in system_class(kind).model_fields} >= set(SYSTEM_FIELDS)


def test_the_flags_are_those_of_the_command():
    from pyterrier_merge.cli.merge import merge

    assert {flag.removesuffix("s") for flag in FLAGS} <= inspect.signature(merge).parameters.keys()
