# The programs and the run files that ship, for who has no Rust:
#
#   docker build -t spin .
#   docker run --rm -v "$PWD/data:/spin/data" spin                              the demo
#   docker run --rm -v "$PWD:/work" -w /work spin spin-run run pipelines/mine.toml
#
# Models from the hub are kept between runs with  -v "$HOME/.cache/huggingface:/hf"
FROM rust:1.95-bookworm AS build
WORKDIR /spin
COPY . .
RUN cargo build --release --workspace --locked --config .cargo/tight.toml \
    && for program in store run sample pair fit bench; do install -s -D -t /out "target/release/spin-$program"; done

FROM debian:bookworm-slim
ENV HF_HOME=/hf
WORKDIR /spin
COPY --from=build /out /usr/local/bin
COPY pipelines pipelines
COPY data/raw data/raw
CMD ["spin-run", "run", "pipelines/demo.toml"]
