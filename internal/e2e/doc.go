// Package e2e tells stories of whole lives: real devices and a real server but for its
// process, in a time of their own, over years that no test could wait for.
package e2e
