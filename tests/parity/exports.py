"""Read what `spin-store export` writes with the programs that people have, live.

    python tests/parity/exports.py STORE PAIRS MODEL [--programs DIR]

STORE is a store, PAIRS a reference of pairs and MODEL one of a model in it. Exports them in
every layout and reads the results with pandas, DuckDB, polars, `datasets.load_dataset`,
TRL's DPOTrainer (which trains two updates of MODEL on them), transformers and mlcroissant,
compares rows and values with the stored table, and the lineage in PROV-JSON with the W3C's
data model as the `prov` package has it. Needs: pandas, duckdb, polars, datasets, trl,
transformers, torch, mlcroissant, prov. Prints one line for each; exits with 1 at the first
difference.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("pairs")
    parser.add_argument("model")
    parser.add_argument("--programs", default="target/release")
    args = parser.parse_args()
    out = Path(tempfile.mkdtemp())

    def spin(*words):
        done = subprocess.run([f"{args.programs}/spin-store", *words, "--store", args.store], capture_output=True)
        if done.returncode != 0:
            sys.exit(done.stderr.decode())
        return done.stdout.decode()

    for layout in ["trl", "spin", "jsonl"]:
        spin("export", args.pairs, "--format", layout, "--out", str(out / layout))
    spin("export", args.model, "--format", "model", "--out", str(out / "model"))
    parquet = str(out / "trl/data/train-00000-of-00001.parquet")

    import pyarrow as pa
    import pyarrow.parquet as pq

    kind, name = args.pairs.split("@")[0].split("/", 1)
    version = max((Path(args.store) / kind / name).glob("v*"), key=lambda path: int(path.name[1:]))
    stored = pa.concat_tables(pq.read_table(part) for part in sorted(version.glob("part-*.parquet"))).to_pylist()
    expected = [
        {"prompt": row["real"][:-1], "chosen": row["real"][-1:], "rejected": row["generated"][-1:]} for row in stored
    ]

    def same(who, rows):
        rows = [{key: [dict(message) for message in row[key]] for key in expected[0]} for row in rows]
        if rows != expected:
            sys.exit(f"{who}: other rows")
        print(f"{who}: {len(rows)} rows, equal")

    import pandas

    same(f"pandas {pandas.__version__}", pandas.read_parquet(parquet).to_dict("records"))
    import duckdb

    table = duckdb.sql(f"select prompt, chosen, rejected from '{parquet}'")
    same(f"duckdb {duckdb.__version__}", [dict(zip(table.columns, row)) for row in table.fetchall()])
    import polars

    same(f"polars {polars.__version__}", polars.read_parquet(parquet).to_dicts())
    same("pandas, JSON lines", pandas.read_json(out / "jsonl/data/train.jsonl", lines=True).to_dict("records"))
    import datasets

    datasets.disable_progress_bars()
    for layout in ["trl", "jsonl"]:
        loaded = datasets.load_dataset(str(out / layout), split="train", cache_dir=str(out / "cache"))
        same(f"datasets {datasets.__version__}, {layout}", loaded.to_list())
    published = datasets.load_dataset(str(out / "spin"), split="train", cache_dir=str(out / "cache")).to_list()
    if published != [{"real": row["real"], "generated": row["generated"]} for row in stored]:
        sys.exit("datasets, spin: other rows")
    print(f"datasets {datasets.__version__}, spin: {len(published)} rows, equal")

    import mlcroissant

    for layout in ["trl", "spin", "jsonl"]:
        path = out / layout / "croissant.json"
        done = subprocess.run([sys.executable, "-m", "mlcroissant.scripts.validate", "--jsonld", str(path)], capture_output=True)
        if done.returncode != 0:
            sys.exit(f"mlcroissant validate, {layout}: {done.stderr.decode()}")
        dataset = mlcroissant.Dataset(jsonld=str(path))
        issues = dataset.metadata.ctx.issues
        if issues.errors:
            sys.exit(f"mlcroissant, {layout}: {issues.report()}")
        print(f"mlcroissant validate, {layout}: no errors")

    import prov.model

    document = prov.model.ProvDocument.deserialize(content=spin("lineage", args.pairs, "--format", "prov"), format="json")
    entities = len(list(document.get_records(prov.model.ProvEntity)))
    again = json.loads(document.serialize(format="json"))
    print(f"prov: {entities} entities, {len(again['wasDerivedFrom'])} derivations")

    import torch
    import transformers
    import trl

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(out / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "model")
    print(f"transformers {transformers.__version__}: {model.num_parameters()} parameters")
    data = datasets.load_dataset(str(out / "trl"), split="train", cache_dir=str(out / "cache"))
    config = trl.DPOConfig(
        output_dir=str(out / "dpo"), max_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to=[], logging_steps=1
    )
    trainer = trl.DPOTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    print(f"trl {trl.__version__}: DPOTrainer, losses {losses}")


if __name__ == "__main__":
    main()
