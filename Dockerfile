# dicom-router as a container: the configuration is mounted at /etc/dicom-router, data is kept in /var/lib/dicom-router.

FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY schemas ./schemas
COPY router ./router
RUN python -m venv /opt/dicom-router \
    && /opt/dicom-router/bin/pip install --no-cache-dir --constraint constraints.txt pip \
    && /opt/dicom-router/bin/pip install --no-cache-dir \
        --constraint constraints.txt --build-constraint constraints.txt .

FROM python:3.12-slim
RUN groupadd --system --gid 10001 dicom-router \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/dicom-router --no-create-home dicom-router \
    && install -d -o dicom-router -g dicom-router -m 0750 /var/lib/dicom-router
COPY --from=build /opt/dicom-router /opt/dicom-router
ENV PATH=/opt/dicom-router/bin:$PATH \
    PYTHONUNBUFFERED=1

# Relative paths of the configuration, as the default ./data/store, start here.
WORKDIR /var/lib/dicom-router
VOLUME /var/lib/dicom-router
USER 10001:10001

# Store SCP (router.listen) and HTTP (router.http; it has to listen on 0.0.0.0 to be reached from outside).
EXPOSE 11112 9104
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9104/healthz', timeout=4)"]
# SIGTERM drains: running moves may end (router.drain), receiving goes on until then.
STOPSIGNAL SIGTERM
CMD ["dicom-router", "run", "--config", "/etc/dicom-router"]
