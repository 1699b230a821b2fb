# Two stages: the first builds a wheel and installs it into /opt/sluice, the second has the result and no tools.
#
# The base is named by its tag, not by a digest: a rebuild then takes in the security fixes of Debian and Python.
# Whoever needs the same bytes every time sets BASE to a digest:
#   docker build --build-arg BASE=python:3.12-slim@sha256:... .
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY proxy proxy/
COPY locales locales/
COPY config config/
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
# The environment has no pip of its own: nothing in the running container is to install anything.
RUN python -m venv --without-pip /opt/sluice \
 && python -m pip --python /opt/sluice/bin/python install --no-cache-dir --only-binary :all: "$(echo /wheels/*.whl)[redis]"

FROM ${BASE}
LABEL org.opencontainers.image.title="Sluice" \
      org.opencontainers.image.description="A drop-in gateway in front of OpenAI whose whole behaviour is a chain of stages in one YAML file." \
      org.opencontainers.image.licenses="Apache-2.0"
# The base image sets LANG to something that is no language; here LANG is the language of the answers.
ENV PATH="/opt/sluice/bin:${PATH}" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUTF8=1 \
    LANG=
COPY --from=build /opt/sluice /opt/sluice
# The weakest layer: every environment variable counts more than this file. Mount another over it to change it.
COPY config/sluice.yaml /etc/sluice/sluice.yaml
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
WORKDIR /
EXPOSE 5000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["sluice", "healthcheck"]
ENTRYPOINT ["sluice"]
CMD ["serve"]
