# Everything a newcomer types. `make demo` and `make test` install what is missing first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= demo-out
PORT   ?=
DATA   ?=
CRDS   ?= ../shared/crds

.PHONY: install install-dev weights demo headshot serve seed-session emulators replay test check format bench bench-engine \
  soak-engine bench-api bench-headshot soak-headshot bench-scaling bench-rollout bench-cluster bench-cloud-calls \
  soak-service fuzz chaos-local chaos-gcp k8s-check image-steps build deploy verify rollback docs clean

# The versions that the image has, where they are for this Python.
PINS = $(shell $(PYTHON) -c 'import sys; print("--constraint constraints.txt" * (sys.version_info[:2] == (3, 11)))')
PIP  = $(BIN)/pip install --quiet --disable-pip-version-check $(PINS)

# Compiling the matting's inner loops takes 40 s, once; else the first start would.
# What `make demo` and `make serve` need; FLUX and the tests need `install-dev`, which is torch and 3 GB more.
install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	$(BIN)/python -m serve_app.headshots.compiled
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[flux,dev]'
	touch $@

weights: install
	@$(BIN)/python -m serve_app.weights

# make demo [PHOTO=p MASK=m OUT=dir]
demo: weights
	@$(BIN)/pawfect demo $(if $(PHOTO),--photo '$(PHOTO)') $(if $(MASK),--mask '$(MASK)') --out '$(OUT)'

# make headshot [PHOTO=p OUT=dir]
headshot: weights
	@$(BIN)/pawfect headshot $(if $(PHOTO),--photo '$(PHOTO)') --out '$(OUT)'

# make serve [PORT=8000 DATA=dir]
serve: weights
	@exec $(BIN)/pawfect serve $(if $(PORT),--port $(PORT)) $(if $(DATA),--data '$(DATA)')

# make seed-session [PHOTO=p MASK=m USER_ID=demo SESSION=first DATA=dir]
seed-session: install
	@$(BIN)/pawfect seed-session $(if $(PHOTO),--photo '$(PHOTO)') $(if $(MASK),--mask '$(MASK)') \
	  $(if $(USER_ID),--user '$(USER_ID)') $(if $(SESSION),--session '$(SESSION)') $(if $(DATA),--data '$(DATA)')

# The emulators of Pub/Sub, Firestore and Cloud Storage, until Ctrl-C; prints what to export. Needs gcloud and Java.
emulators: install-dev
	@exec $(BIN)/python -m pawfect.emulators

# make replay [ENV=gcp] [ID='id …' | ALL=1]: lists the dead letters, or sends the chosen ones back.
replay: install
	@$(BIN)/python -m pawfect.replay $(if $(ALL),--all) $(if $(ID),--id $(ID))

test: weights install-dev
	$(BIN)/pytest

# Style, types, the direction of imports, generated pages: seconds, no server.
check: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m bench.pages --check
	$(BIN)/python -m monitoring --check
	$(BIN)/python -m manifests --check
	$(BIN)/python -m capacity --check

# make k8s-check [CRDS=dir]: all that is deployed, checked without a cluster. CRDS has the custom resource definitions
# (KubeRay, Gateway API, GKE) as YAML files: kubectl get crds -o yaml >dir/all.yaml in a cluster that has them. Without
# that folder the rest is checked. Needs kubectl and terraform.
k8s-check: install-dev
	$(BIN)/python -m manifests $(if $(wildcard $(CRDS)),--crds '$(CRDS)',--rules)
	$(BIN)/hadolint Dockerfile
	$(BIN)/python -m infra_check
	$(BIN)/check-jsonschema --builtin-schema vendor.cloudbuild cloudbuild.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github/workflows
	$(BIN)/shellcheck .ci/run

# make image-steps [TARGET=cpu|gpu]: what the Dockerfile installs, carried out and tried in a folder, without Docker.
image-steps: install-dev
	$(BIN)/python -m tests.unit.image.install_steps $(or $(TARGET),cpu)

# make build [TAG=] [TARGET=gpu|cpu] [PUSH=1]
build: install-dev
	@$(BIN)/python -m delivery build $(if $(TAG),--tag '$(TAG)') $(if $(TARGET),--target '$(TARGET)') $(if $(PUSH),--push)

# make deploy [TAG=] [WEIGHTS=1]: rolls out, verifies, and goes back to what ran before when it does not work.
deploy: install-dev
	@$(BIN)/python -m delivery deploy $(if $(TAG),--tag '$(TAG)') $(if $(WEIGHTS),--weights)

# make verify [URL=] [TAG=]: is it up, is it that version, does it edit a photo?
verify: install-dev
	@$(BIN)/python -m delivery verify $(if $(URL),--url '$(URL)') $(if $(TAG),--version '$(TAG)') --edit

# make rollback [TAG=]: to what ran before, or to that one.
rollback: install-dev
	@$(BIN)/python -m delivery rollback $(if $(TAG),--tag '$(TAG)')

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: weights install-dev
	@$(BIN)/python -m bench.all

# The FLUX engine on a CPU, without Ray, with a tiny model: ten minutes.
bench-engine: install-dev
	@$(BIN)/python -m bench.engine

# make soak-engine [REQUESTS=2000]
soak-engine: install-dev
	@$(BIN)/python -m bench.soak $(if $(REQUESTS),--requests $(REQUESTS))

# What HTTP and Ray Serve add to an edit, in the modes of Serve; HAProxy only where haproxy is installed.
bench-api: weights install-dev
	@$(BIN)/python -m bench.api

# The matting beside the rembg package, then whole headshots: some minutes.
bench-headshot: weights install-dev
	@$(BIN)/python -m bench.headshot_matting
	@$(BIN)/python -m bench.headshot

# make soak-headshot [HEADSHOTS=500]
soak-headshot: weights install-dev
	@$(BIN)/python -m bench.headshot --soak $(HEADSHOTS)

# A load curve on L4s that are not there, with a tiny FLUX on the CPU; then numbers by hand and a pause: ten minutes.
bench-scaling: weights install-dev
	@$(BIN)/python -m bench.scaling

# Changes of user_config, rolling updates and the end of a node, under load.
bench-rollout: weights install-dev
	@$(BIN)/python -m bench.rollout

# The rendered manifests as pods of this machine on real Ray, with Redis: a Spot pod's end, the head's end. Wants root.
bench-cluster: weights install-dev
	@$(BIN)/python -m bench.cluster --stable-head

# What pieces of work are billed for by Google, counted on the wire between the service and the emulators.
bench-cloud-calls: weights install-dev
	@$(BIN)/python -m bench.cloud_calls

# make soak-service [MINUTES=30]: 70 % of what the service can do.
soak-service: weights install-dev
	@$(BIN)/python -m bench.soak_service $(if $(MINUTES),--minutes $(MINUTES))

# Random requests against the real service, judged by its own OpenAPI document.
fuzz: weights install-dev
	FUZZ_CASES=$(or $(CASES),100) $(BIN)/pytest -q -s tests/acceptance/edits/test_openapi.py

# make chaos-local [KILLS=50]
chaos-local: weights install-dev
	@$(BIN)/python -m bench.chaos_local $(if $(KILLS),--kills $(KILLS))

# make chaos-gcp [MESSAGES=200]
chaos-gcp: weights install-dev
	@$(BIN)/python -m bench.chaos_gcp $(if $(MESSAGES),--messages $(MESSAGES))

# Writes what is generated: .env.example, the README's configuration table, dashboards, manifests, capacity's tables.
docs: install-dev
	$(BIN)/python -m bench.pages
	$(BIN)/python -m monitoring
	$(BIN)/python -m manifests
	$(BIN)/python -m capacity

clean:
	rm -rf $(VENV) build dist *.egg-info demo-out chaos-out
