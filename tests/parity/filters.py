"""Expected answers of lm-evaluation-harness's own filters and metrics on written texts.

    python tests/parity/filters.py          # writes filters.json beside this script
    python tests/parity/filters.py --check  # makes it again and compares

For gsm8k and one of bbh_cot_fewshot_* the task's YAML gives the stop strings, the
filters and the options of exact_match; HFLM's `postprocess_generated_text` cuts at the
stop strings. Each case:

    text         what a model generated, special tokens already left out
    cut          after cutting at `until` and the end token
    target       gold answer
    filters      {name: {"prediction", "exact_match"}} of the cut text

`flexible-extract` matches ASCII digits only, and so does `strict-match`. The filter
of BBH takes the first match of (?<=the answer is )(.*)(?=.): the rest of that line but
its last character; where that is not there, "[invalid]".

Made with lm_eval 0.4.13.
"""

import argparse
import json
import sys
from pathlib import Path

import harness
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, postprocess_generated_text
from lm_eval.tasks import TaskManager

OUT = Path(__file__).parent / "filters.json"
EOS = "<|endoftext|>"
GOLD = "She has 3 * 6 = <<3*6=18>>18 left.\n#### 18"

# (text, target); a target without "####" stands as it is.
GSM8K = [
    ("She sells 16 - 3 - 4 = 9 eggs.\n#### 18", GOLD),
    (" The answer is 18.", GOLD),
    ("#### 18.", GOLD),
    ("#### 18.0", GOLD),
    ("#### $18", GOLD),
    ("####18", GOLD),
    ("####  18", GOLD),
    ("### 18", GOLD),
    ("##### 18", GOLD),
    ("#### 18 dollars", GOLD),
    ("#### 18\n\nQuestion: What is 2 + 2?\nAnswer: 4\n#### 4", GOLD),
    ("#### 17\n#### 18", GOLD),
    ("#### 18\n#### 17", GOLD),
    ("#### 18\n\nThat was question 3 of 4", GOLD),
    ("#### -18", "It is below zero.\n#### -18"),
    ("#### - 18", "It is below zero.\n#### -18"),
    ("#### --18", "It is below zero.\n#### -18"),
    ("The total is -18", "It is below zero.\n#### -18"),
    ("16-18", "It is below zero.\n#### -18"),
    ("#### \u221218", "It is below zero.\n#### -18"),
    ("#### 1,234", "Thousands.\n#### 1,234"),
    ("#### 1234", "Thousands.\n#### 1,234"),
    ("#### 1,234.50", "Money.\n#### 1234.50"),
    ("#### 1,234.50.", "Money.\n#### 1234.50"),
    ("#### 1,234.5", "Money.\n#### 1234.50"),
    ("#### $1,234.50", "Money.\n#### 1234.50"),
    ("It costs $1,234.50 in all", "Money.\n#### 1234.50"),
    ("It costs $1,234.50.", "Money.\n#### 1234.50"),
    ("It costs 1234.50$", "Money.\n#### 1234.50"),
    ("#### 1 234", "Thousands.\n#### 1234"),
    ("#### 1,234,", "Thousands.\n#### 1,234"),
    ("#### ,", GOLD),
    ("#### .", GOLD),
    ("#### ...", GOLD),
    ("#### .5", "Half.\n#### .5"),
    ("#### 0.5", "Half.\n#### .5"),
    ("", GOLD),
    (" ", GOLD),
    ("no number at all", GOLD),
    ("No number, but a sentence... and dots.", GOLD),
    ("It is 7", "Seven.\n#### 7"),
    ("It is 7.", "Seven.\n#### 7"),
    ("It is 7, or so", "Seven.\n#### 7"),
    ("It is $7", "Seven.\n#### 7"),
    ("It is $ 7", "Seven.\n#### 7"),
    ("7%", "Seven.\n#### 7"),
    ("7/8", "Eight.\n#### 8"),
    ("7e3", "Three.\n#### 3"),
    ("a7b", "Seven.\n#### 7"),
    ("07", "Seven.\n#### 7"),
    ("#### 07", "Seven.\n#### 7"),
    ("#### 1\uff18", GOLD),
    ("#### \u0661\u0668", GOLD),
    ("It is \u0661\u0668", GOLD),
    ("\u00b2\u00b3 and \u2460", GOLD),
    ("#### 18\u20ac", GOLD),
    ("####\u00a018", GOLD),
    ("#### 18\u00a0", GOLD),
    ("####\n18", GOLD),
    ("####\t18", GOLD),
    ("#### \n18", GOLD),
    ("18\n", GOLD),
    ("18\r\n#### 18\r\n", GOLD),
    ("#### 1\n8", GOLD),
    ("9 * 2 = <<9*2=18>>18 dollars", GOLD),
    ("The answer is <b>18</b>", GOLD),
    ("The answer is 18</s>19", GOLD),
    ("The answer is 18<|im_end|>19", GOLD),
    ("The answer is 18<|endoftext|>19", GOLD),
    ("The answer is 18 Question: 19", GOLD),
    ("The answer is 18 question: 19", GOLD),
    ("Question: 18", GOLD),
    ("The answer is 18Question 19", GOLD),
    ("$", GOLD),
    ("$$", GOLD),
    ("#### 18", "18"),
    ("#### 18", "18.0"),
    ("#### 18", "so #### 17 and #### 18"),
    ("#### 18", "18."),
    ("#### 18", "[18]"),
]
BBH = [
    ("So the answer is yes.", "yes"),
    ("So the answer is Yes.", "yes"),
    ("So the answer is yes", "yes"),
    ("so the answer is yes. ", "yes"),
    ("So the answer is yes.\n", "yes"),
    ("So the answer is  yes.", "yes"),
    ("So the answer is yes .", "yes"),
    ("So The answer is yes.", "yes"),
    ("So the Answer is yes.", "yes"),
    ("the answer is (B).\n\nQ: Next", "(B)"),
    ("the answer is (B).\n\nthe answer is (C).", "(B)"),
    ("the answer is (B)", "(B)"),
    ("the answer is (B)).", "(B)"),
    ("the answer is B.", "(B)"),
    ("the answer is", "yes"),
    ("the answer is ", "yes"),
    ("the answer is .", "yes"),
    ("the answer is .", ""),
    ("the answer is x", ""),
    ("the answer is\nyes.", "yes"),
    ("the answer is \nyes.", "yes"),
    ("First line.\nSo the answer is no.\nSo the answer is yes.", "no"),
    ("the answer is no. So the answer is yes.", "no"),
    ("the answer is no. So the answer is yes.", "no. So the answer is yes"),
    ("the answer is \nthe answer is yes.", "yes"),
    ("the answer is the answer is yes.", "yes"),
    ("the answer is the answer is yes.", "the answer is yes"),
    ("no match here", "yes"),
    ("", "yes"),
    ("So the answer is Quito.", "Quito"),
    ("Quickly: the answer is yes.", "yes"),
    ("The Queen. So the answer is yes.", "yes"),
    ("So the answer is yes.</s>no", "yes"),
    ("So the answer is yes</s>.", "yes"),
    ("So the answer is yes<|endoftext|>.", "yes"),
    ("So the answer is yes\n\n.", "yes"),
    ("So the answer is na\u00efve.", "na\u00efve"),
    ("So the answer is \u732b\u3002", "\u732b"),
    ("So the answer is yes\U0001f389", "yes"),
    ("So the answer is yes\u0301", "yes"),
    ("So the answer is yes.\r", "yes"),
    ("So the answer is yes.\r", "yes."),
    ("So the answer is yes\u2028no.", "yes\u2028no"),
    ("So the answer is\u00a0yes.", "yes"),
    ("So the answer is \u00a0yes\u00a0.", "yes"),
    ("So the answer is \x1fyes\x1f.", "yes"),
    ("So the answer is $1,234.", "$1,234"),
    ("So the answer is True.", "True"),
    ("So the answer is ] ] ).", "] ] )"),
]


def cases(name: str, texts: list[tuple[str, str]]) -> dict:
    task = TaskManager().load([name])["tasks"][name]
    until = handle_stop_sequences(list(task.config.generation_kwargs["until"]), eos=EOS)
    # The target goes through the task's own doc_to_target, as a document's would.
    column = task.config.doc_to_target.strip("{}")
    found = []
    for text, target in texts:
        doc = {**task.eval_docs[0], column: target}
        cut = postprocess_generated_text(text, until, None)
        instance = Instance(
            request_type="generate_until",
            doc=doc,
            arguments=("", {}),
            idx=0,
            metadata=(name, 0, 1),
        )
        instance.resps.append(cut)
        task._instances = [instance]
        task.apply_filters()
        found.append(
            {
                "text": text,
                "cut": cut,
                "target": target,
                "filters": {
                    key: {
                        "prediction": prediction,
                        "exact_match": float(
                            task.process_results(doc, [prediction])["exact_match"]
                        ),
                    }
                    for key, prediction in instance.filtered_resps.items()
                },
            }
        )
    return {"version": task.VERSION, "until": until, "cases": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/benchmarks"))
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()

    harness.use_local_data(arguments.data)
    made = {
        "lm_eval": lm_eval.__version__,
        "gsm8k": cases("gsm8k", GSM8K),
        "bbh_cot": cases("bbh_cot_fewshot_sports_understanding", BBH),
    }
    # One case a line.
    text = json.dumps(made) + "\n"
    for before in (", ", "["):
        text = text.replace(before + '{"text":', before.strip() + '\n{"text":')
    assert json.loads(text) == made
    if not arguments.check:
        OUT.write_text(text)
    elif OUT.read_text() != text:
        sys.exit(f"{OUT} is not what this makes")


if __name__ == "__main__":
    main()
