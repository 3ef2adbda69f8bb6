# posttrain at a commit, with both environments: an agent's stages in Docker or Kubernetes, docs/containers.md.
#
#   docker build --tag posttrain:$(git rev-parse --short HEAD) .
#   docker run --rm posttrain:TAG posttrain --help

ARG BASE=debian:bookworm-slim
FROM ${BASE}

# git and make: the commit that is here is checked before each stage, and `make` is how the docs start things.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git make python3 python3-venv tini \
    && rm -rf /var/lib/apt/lists/*

ARG UV=0.13.9
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==${UV}

RUN useradd --create-home --uid 1000 posttrain && install --directory --owner posttrain /srv/posttrain
USER posttrain
WORKDIR /srv/posttrain
ENV PATH=/srv/posttrain/.venv/bin:/opt/uv/bin:$PATH

# Before the code, so that a change of code installs nothing. One layer for both: what they share, torch above all, is
# linked and there once. `pip install`, not `sync`: torch from the index brings packages of CUDA that no lock lists.
COPY --chown=posttrain requirements/train.txt requirements/lighteval.txt requirements/
# `cpu` for agents without GPUs: several GB less. Asks PyTorch's own index, in place of the other.
ARG UV_TORCH_BACKEND
RUN for each in venv:train venv-lighteval:lighteval; do \
        uv venv --quiet --python /usr/bin/python3 .${each%:*} \
        && uv pip install --quiet --compile-bytecode --python .${each%:*}/bin/python --requirement requirements/${each#*:}.txt \
        || exit 1; \
    done; \
    rm -rf ~/.cache/uv

# The clone, .git included: an agent's stage runs only at the commit of its chain.
COPY --chown=posttrain . .
RUN uv pip install --quiet --python .venv/bin/python --no-deps --editable . \
    && touch .venv/.complete .venv-lighteval/.complete \
    && mkdir -p .dvc/cache .posttrain models data/prepared \
    && git status --porcelain

# A first process that ends others: training leaves workers in sessions of their own.
ENTRYPOINT ["tini", "--"]
CMD ["posttrain", "--help"]
