# The service's image. `--target cpu`: the draft engine and headshots, without torch. Default, `gpu`: FLUX, too.
#
#   docker build --platform linux/amd64 --build-arg VERSION=$(git rev-parse HEAD) --tag pawfect .
#
# No weights and no secrets are in it: weights are mounted at /weights, and the hub's token is read from Secret Manager
# by the Job that fills the bucket. There is no build argument for a token, and there must be none: it would stay
# readable in the image's history.
#
# What changes most comes last, so that a change of code moves some megabytes: requirements → libraries → torch → code.
# All is made of wheels; no stage has a compiler.

# Tag and digest name the same image: both are to be renewed together (`docker buildx imagetools inspect TAG` prints the
# digest). Another registry's copy of it is taken with --build-arg BASE=.
ARG BASE=python:3.11.17-slim-bookworm@sha256:2333bd330d12de02514770b3585cad313644316047cdee24a7acfdece6de6efb


# The two lists of requirements, by themselves: no other change of pyproject.toml makes libraries be installed again.
FROM ${BASE} AS requirements
WORKDIR /requirements
COPY pyproject.toml ./
RUN python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
  open("cpu.txt", "w").write("\n".join(project["dependencies"])); \
  open("flux.txt", "w").write("\n".join(project["optional-dependencies"]["flux"]))'


FROM ${BASE} AS cpu-libraries
# What the runtime has, too: numba takes up compiled code only for the processor that it was made for. x86-64-v3 (AVX2)
# is every x86 machine of the cloud since 2013; as fast here as the building machine's own type, and generic code takes
# four times as long. An empty list of features means those of the processor's type, not the building machine's.
ENV PIP_CONSTRAINT=/requirements/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    NUMBA_CPU_NAME=x86-64-v3 \
    NUMBA_CPU_FEATURES=
WORKDIR /requirements
COPY constraints.txt ./
COPY --from=requirements /requirements/cpu.txt ./
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --only-binary :all: --requirement cpu.txt
# Compiles pymatting's inner loops, 40 s, which else every start would do.
RUN /opt/venv/bin/python -c 'import pymatting'


# Only what comes on top, in a folder of its own: both images share the layer with all the rest.
FROM cpu-libraries AS flux-libraries
COPY --from=requirements /requirements/flux.txt ./
RUN pip --python /opt/venv/bin/python install --only-binary :all: --prefix /opt/flux --requirement flux.txt


FROM cpu-libraries AS project
WORKDIR /app
COPY pyproject.toml README.md LICENSE NOTICE serve_config.yaml ./
COPY ingress ./ingress
COPY pawfect ./pawfect
COPY serve_app ./serve_app
RUN pip --python /opt/venv/bin/python install --no-deps --prefix /opt/project --config-settings editable_mode=compat \
      --editable . \
 && rm -r pawfect_serve.egg-info \
 && python -m compileall -q --invalidation-mode unchecked-hash .


# bash, wget and grep: KubeRay's probes. tini reaps what Ray leaves; `command` of a pod replaces it, `args` do not.
FROM ${BASE} AS runtime
# hadolint ignore=DL3008  # Debian drops a package's version when there is a newer one: a pinned build would break
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bash ca-certificates grep tini wget \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 pawfect \
 && useradd --uid 10001 --gid pawfect --home-dir /cache --no-create-home --shell /bin/bash pawfect \
 && install --directory --owner=pawfect --group=pawfect /cache /data \
 && install --directory /app /weights
WORKDIR /app
# Written is in /tmp (Ray, numba), /data and /cache alone: the root may be read-only. By default the model hub's client,
# onnxruntime and Ray tell their makers of every process.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NUMBA_CPU_NAME=x86-64-v3 \
    NUMBA_CPU_FEATURES= \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    ORT_DISABLE_TELEMETRY=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    PAWFECT_DATA_DIR=/data \
    PAWFECT_ENGINES__WEIGHTS_DIR=/weights/embedded \
    PAWFECT_FLUX__PROMPT_DIR=/cache/prompts
USER 10001:10001
EXPOSE 8000 8080
# For `docker run`; Kubernetes has probes of its own. The start includes loading the weights.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["bash", "-c", "wget --quiet --output-document=/dev/null http://127.0.0.1:${PAWFECT_PORT:-8000}/-/healthz"]
ENTRYPOINT ["tini", "--"]
CMD ["pawfect", "serve"]


FROM runtime AS cpu-runtime
COPY --from=cpu-libraries /opt/venv /opt/venv


# torch's wheel brings CUDA 13: of NVIDIA the node needs the driver alone, R580 or newer. GKE mounts it at
# /usr/local/nvidia; elsewhere NVIDIA's container toolkit does, which reads the two variables.
FROM cpu-runtime AS gpu-runtime
COPY --from=flux-libraries /opt/flux /opt/venv
ENV PATH=$PATH:/usr/local/nvidia/bin \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility


# The code belongs to root: the service can read it and not change it.
FROM cpu-runtime AS cpu
COPY --from=project /opt/project /opt/venv
COPY --from=project /app /app
ARG VERSION=unknown
ENV PAWFECT_VERSION=$VERSION
LABEL org.opencontainers.image.title="pawfect" \
      org.opencontainers.image.description="Pet-photo edits on Ray Serve: draft engine and headshots" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$VERSION"


FROM gpu-runtime AS gpu
COPY --from=project /opt/project /opt/venv
COPY --from=project /app /app
ARG VERSION=unknown
ENV PAWFECT_VERSION=$VERSION
LABEL org.opencontainers.image.title="pawfect" \
      org.opencontainers.image.description="Pet-photo edits on Ray Serve: draft engine, headshots and FLUX" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$VERSION"
